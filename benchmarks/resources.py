"""Does a worker keep its CPUs busy with samples of different sizes, and are the large ones served?

One worker with 8 CPUs and 2 GPUs, which need not be there, runs steps that sleep: of 1, 2 and 4 CPUs, and of a GPU; all
have more samples than it can run. Each script tells when it began and ended, and which CPUs and GPUs it was given: that
is all that is measured, from the first begin until the worker is told to stop. `busy` is the share of CPU-seconds in
which a script held the CPU; `overlaps` counts pairs of scripts that held the same CPU or GPU at a time, and must be 0;
`longest_wait_s` is the longest time in which no sample of the step began. Rows: `alike`, half a second each; `mixed`,
from a tenth of a second to two; `long_small`, where samples of one CPU take six times as long as those of four;
`stream`, only samples of 1 and of 4 CPUs; and `whole`, of 1 CPU and of all. Takes five minutes. Does not show: what
scripts lose that share caches and memory; several workers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from benchmarks.figures import Size, main_of
from benchmarks.stage import Stage, stage

CPUS, GPUS = 8, 2
SAMPLES = 100_000
#: Step → its keys and how many CPUs it takes.
STEPS = {"one": ("procs: 1", 1), "two": ("procs: 2", 2), "four": ("procs: 4", 4), "gpu": ("gpus: 1", 1),
         "all": ("exclusive: yes", CPUS)}  # fmt: skip
#: Row → for each step the shortest and the longest sample, seconds.
ROWS = {
    "alike": {"one": (0.5, 0.5), "two": (0.5, 0.5), "four": (0.5, 0.5), "gpu": (0.5, 0.5)},
    "mixed": {"one": (0.1, 2.0), "two": (0.1, 2.0), "four": (0.1, 2.0), "gpu": (0.1, 2.0)},
    "long_small": {"one": (3.0, 3.0), "two": (1.0, 1.0), "four": (0.5, 0.5), "gpu": (1.0, 1.0)},
    "stream": {"one": (0.1, 1.0), "four": (0.5, 0.5)},
    "whole": {"one": (0.1, 1.0), "all": (0.5, 0.5)},
}
SPEC = """
description: {{name: {row}, description: steps of different sizes}}
study:
{steps}
merlin:
  samples: {{file: samples.npy, column_labels: [{labels}], files: lean}}
"""
STEP = """
  - name: {name}
    description: it sleeps
    run:
      {keys}
      cmd: |
        BEGAN=$EPOCHREALTIME
        sleep $({label})
        echo "{name} $BEGAN $EPOCHREALTIME ${{MRUN_CPUS:-}} ${{CUDA_VISIBLE_DEVICES:-}}" >> {ledger}
"""


class Held(NamedTuple):
    """What one script tells of itself."""

    step: str
    began: float
    ended: float
    places: tuple[str, ...]


def _queue(on: Stage, row: str) -> None:
    ranges = ROWS[row]
    columns = [np.random.default_rng(1).uniform(*span, SAMPLES).round(3) for span in ranges.values()]
    np.save(on.directory / "samples.npy", np.stack(columns, axis=1))
    steps = [
        STEP.format(name=name, keys=STEPS[name][0], label=name.upper(), ledger=on.directory / row) for name in ranges
    ]
    on.queue(SPEC.format(row=row, steps="".join(steps), labels=", ".join(map(str.upper, ranges))))


def _run(on: Stage, row: str, seconds: float) -> tuple[list[Held], float]:
    """Work for so long; what the scripts told, and when the worker was told to stop."""
    _queue(on, row)
    worker = on.start("work", "--queues", "merlin", "--resources", f"cpus={CPUS},gpus={GPUS}", "--study", "last")
    ledger = on.directory / row
    while not ledger.exists():
        if worker.poll() is not None:
            raise RuntimeError(f"The worker ended: {(on.directory / 'background.log').read_text()[-2000:]}")
        time.sleep(0.05)
    time.sleep(seconds)
    stopped_at = time.time()
    worker.terminate()
    worker.wait()
    on.mrun("cancel", "last", "--yes")
    return [_read(line) for line in ledger.read_text().splitlines()], stopped_at


def _read(line: str) -> Held:
    step, began, ended, cpus, *gpus = line.split()
    places = [f"cpu {one}" for one in cpus.split(",")] + [f"gpu {one}" for one in "".join(gpus).split(",") if one]
    return Held(step, float(began), float(ended), tuple(places))


def overlaps(held: Iterable[Held]) -> int:
    """Scripts that began on a CPU or GPU before the one before them there had ended."""
    by_place: dict[str, list[Held]] = {}
    for one in held:
        for place in one.places:
            by_place.setdefault(place, []).append(one)
    ordered = [sorted(them, key=lambda one: one.began) for them in by_place.values()]
    return sum(later.began < sooner.ended for them in ordered for sooner, later in pairwise(them))


def busy(held: Iterable[Held], begin: float, end: float) -> float:
    """The share of CPU-seconds in which a script held the CPU."""
    used = sum(STEPS[one.step][1] * max(0.0, min(one.ended, end) - max(one.began, begin)) for one in held)
    return used / (CPUS * (end - begin))


def _figures(held: Sequence[Held], stopped_at: float) -> dict[str, Any]:
    begin = min(one.began for one in held)
    steps = {}
    for name in dict.fromkeys(one.step for one in held):
        own = [one for one in held if one.step == name]
        begins = [begin, *sorted(one.began for one in own if one.began < stopped_at), stopped_at]
        steps[name] = {
            "samples": len(own),
            "busy": round(busy(own, begin, stopped_at), 3),
            "longest_wait_s": round(max(later - sooner for sooner, later in pairwise(begins)), 2),
        }
    wrong = [one for one in held if sum("cpu" in place for place in one.places) != STEPS[one.step][1]]
    return {
        "seconds": round(stopped_at - begin, 1),
        "busy": math.floor(1000 * busy(held, begin, stopped_at)) / 1000,
        "overlaps": overlaps(held),
        "places": len({place for one in held for place in one.places}),
        "wrong_numbers_of_cpus": len(wrong),
        "steps": steps,
    }


def measure(size: Size) -> dict[str, Any]:
    """All rows, one after the other."""
    seconds, rows = {
        Size.SMALLEST: (3.0, ["alike"]),
        Size.QUICK: (12.0, ["mixed", "stream"]),
        Size.FULL: (45.0, list(ROWS)),
    }[size]
    found = {}
    for row in rows:
        with stage() as on:
            found[row] = _figures(*_run(on, row, seconds))
    return {"question": "resources", "cpus": CPUS, "gpus": GPUS, "rows": found}


if __name__ == "__main__":
    main_of(measure, __doc__)
