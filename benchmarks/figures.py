"""Sizes that a benchmark is run in, and the few figures that all of them tell."""

from __future__ import annotations

import argparse
import enum
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any


class Size(enum.StrEnum):
    """How much is measured."""

    #: Only to see that it runs: numbers mean nothing.
    SMALLEST = "smallest"
    #: All benchmarks together take less than three minutes.
    QUICK = "quick"
    #: What the README shows.
    FULL = "full"


Measure = Callable[[Size], dict[str, Any]]


def main_of(measure: Measure, docstring: str | None) -> None:
    """The command of one benchmark: print one JSON value."""
    parser = argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_options(parser)
    print(json.dumps(measure(parser.parse_args().size), indent=2))
    sys.stdout.flush()


def add_size_options(parser: argparse.ArgumentParser) -> None:
    """`--quick` and `--smallest`."""
    parser.set_defaults(size=Size.FULL)
    for size, text in ((Size.QUICK, "small sizes and few rounds"), (Size.SMALLEST, "only see that it runs")):
        parser.add_argument(f"--{size}", dest="size", action="store_const", const=size, help=text)


def median(values: Sequence[float], digits: int = 3) -> float:
    """The middle value, rounded."""
    return round(statistics.median(values), digits)


def percentile(values: Sequence[float], percent: float, digits: int = 3) -> float:
    """The smallest value that at least so many percent do not exceed (nearest rank), rounded."""
    ordered = sorted(values)
    return round(ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)], digits)


def spread(values_ms: Sequence[float]) -> dict[str, float]:
    """What a latency row shows."""
    return {"count": len(values_ms), "p50_ms": percentile(values_ms, 50), "p99_ms": percentile(values_ms, 99)}
