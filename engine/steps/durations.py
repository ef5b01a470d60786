"""Walltimes."""

from __future__ import annotations

import math

#: Seconds of the fields of `d:h:m:s`, from the right.
_UNITS_S = (1, 60, 3600, 86400)


def parse_walltime_s(text: str) -> float | None:
    """Seconds of `[[[d:]h:]m:]s`, or of plain seconds; None for zero, which schedulers take for no limit.

    Raises:
        ValueError: if it is neither.
    """
    fields = text.strip().split(":")
    if len(fields) > len(_UNITS_S):
        raise ValueError(text)
    numbers = [float(field) for field in fields]
    if any(number < 0 or not math.isfinite(number) for number in numbers):
        raise ValueError(text)
    return sum(number * unit for number, unit in zip(reversed(numbers), _UNITS_S, strict=False)) or None
