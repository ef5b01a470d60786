"""How long does mrun take to start: `mrun --help`, a look, and a study of one trivial sample from queueing to its end?

Beside each run of a command a bare `python -c pass` runs, and the ratios are to that one. The server runs already, and
modules are compiled. CPU is that of the command and of all that it started and waited for: a worker's guard, its engine
and the script. Takes half a minute. Does not show: the start of the own server; modules that a network file system
reads for the first time.
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

from benchmarks.figures import Size, main_of, median
from benchmarks.stage import MRUN, Stage, stage

ROUNDS = {Size.SMALLEST: 1, Size.QUICK: 5, Size.FULL: 15}
SPEC = """
description: {name: trivial, description: one sample}
study:
  - {name: hello, description: says hello, run: {cmd: echo hello}}
"""


def _cost(on: Stage, words: tuple[str, ...]) -> tuple[float, float]:
    """Milliseconds of wall time and of CPU."""
    before_s, began = _children_cpu_s(), time.perf_counter()
    on.command(*words)
    return 1000 * (time.perf_counter() - began), 1000 * (_children_cpu_s() - before_s)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(size: Size) -> dict[str, Any]:
    """Medians of the rounds, and their ratios to a bare Python in the same rounds."""
    with stage() as on:
        (on.directory / "spec.yaml").write_text(SPEC)
        commands = {
            "python": (sys.executable, "-c", "pass"),
            "help": (MRUN, "--help"),
            "status": (MRUN, "status", "last"),
            "run": (MRUN, "run", "spec.yaml"),
        }
        on.mrun("run", "spec.yaml")
        costs = {name: [] for name in commands}
        for _ in range(ROUNDS[size]):
            for name, words in commands.items():
                costs[name].append(_cost(on, words))
    wall_ms, cpu_ms = (
        {name: median([one[column] for one in found], 1) for name, found in costs.items()} for column in (0, 1)
    )
    return {
        "question": "startup",
        "wall_ms": wall_ms,
        "cpu_ms": cpu_ms,
        "wall_over_python": {name: round(value / wall_ms["python"], 2) for name, value in wall_ms.items()},
        "cpu_over_python": {name: round(value / cpu_ms["python"], 2) for name, value in cpu_ms.items()},
    }


if __name__ == "__main__":
    main_of(measure, __doc__)
