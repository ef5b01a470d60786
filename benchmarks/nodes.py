"""Do checking and queueing grow with the number of nodes, and with nothing else?

Two shapes of study: `deep`, combinations × 50 steps in a chain, without samples; `wide`, combinations × 10 steps in a
chain over a million samples. Each in three sizes, the largest of 1,000 and 5,000 combinations, which is 50,000 nodes.
`mrun check` and `mrun queue`, from start to end. `us_per_node` is the commands' CPU time (which other work on the
machine disturbs less than their duration) for each node, less that of a study of one combination, which is Python's
start. `queue_growth` is that of the largest study over that of the one a third as large: 1 is linear; `check` costs so
little that its growth is lost in the noise of Python's start. Takes about a minute. Does not show: how long the nodes
run.
"""

from __future__ import annotations

import resource
import time
from typing import Any, NamedTuple

from benchmarks.figures import Size, main_of, median
from benchmarks.stage import Stage, stage

HEAD = """
description: {{name: nodes, description: many}}
global.parameters:
  P: {{values: [{values}], label: "P.%%"}}
{samples}study:
"""
STEP = """  - name: s{number}
    description: a link
    run: {{cmd: "true $(P) {token}", depends: [{parent}]}}
"""
SAMPLES = """merlin:
  samples: {file: samples.npy, column_labels: [X]}
"""
SAMPLE_COUNT = 1_000_000


class Shape(NamedTuple):
    """A family of studies."""

    name: str
    steps: int
    combinations: tuple[int, ...]
    has_samples: bool


def spec_of(shape: Shape, combinations: int) -> str:
    """A study of so many combinations."""
    values = ", ".join(map(str, range(combinations)))
    parents = ["", *(f"s{number}" for number in range(shape.steps))]
    token = "$(X)" if shape.has_samples else ""
    steps = [STEP.format(number=number, token=token, parent=parents[number]) for number in range(shape.steps)]
    return HEAD.format(values=values, samples=SAMPLES if shape.has_samples else "") + "".join(steps)


def _time(on: Stage, verb: str) -> dict[str, float]:
    began, cpu_before_s = time.perf_counter(), _children_s()
    on.mrun(verb, "spec.yaml")
    return {f"{verb}_s": time.perf_counter() - began, f"{verb}_cpu_s": _children_s() - cpu_before_s}


def _children_s() -> float:
    """CPU time of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _round(on: Stage, shape: Shape, combinations: int) -> dict[str, float]:
    (on.directory / "spec.yaml").write_text(spec_of(shape, combinations))
    check = _time(on, "check")
    server_bytes, server_s = on.server_bytes(), on.server_seconds()
    found = {
        **check,
        **_time(on, "queue"),
        "server_cpu_s": on.server_seconds() - server_s,
        "server_bytes_per_node": (on.server_bytes() - server_bytes) / (combinations * shape.steps),
    }
    on.client.flushall()
    return found


def _measure(on: Stage, shape: Shape, rounds: int) -> list[dict[str, Any]]:
    sizes = (1, *shape.combinations)
    found: dict[int, list[dict[str, float]]] = {combinations: [] for combinations in sizes}
    for _ in range(rounds):
        for combinations in sizes:
            found[combinations].append(_round(on, shape, combinations))
    least = {name: median([one[name] for one in found[1]]) for name in found[1][0]}
    rows = []
    for combinations in shape.combinations:
        row = {name: median([one[name] for one in found[combinations]]) for name in least}
        nodes = combinations * shape.steps
        extra = {f"{verb}_us_per_node": round(1e6 * (row[f"{verb}_cpu_s"] - least[f"{verb}_cpu_s"]) / nodes, 1)
                 for verb in ("check", "queue")}  # fmt: skip
        rows.append({"shape": shape.name, "combinations": combinations, "nodes": nodes, **row, **extra})
    return rows


def measure(size: Size) -> dict[str, Any]:
    """Both shapes, and how their times grow."""
    sizes, rounds = {
        Size.SMALLEST: ((0.01, 0.02), 1),
        Size.QUICK: ((1 / 3, 1), 1),
        Size.FULL: ((0.1, 1 / 3, 1), 3),
    }[size]
    shapes = [
        Shape("deep", 50, tuple(round(1000 * part) for part in sizes), has_samples=False),
        Shape("wide", 10, tuple(round(5000 * part) for part in sizes), has_samples=True),
    ]
    with stage() as on:
        on.samples(SAMPLE_COUNT)
        rows = [row for shape in shapes for row in _measure(on, shape, rounds)]
    growth = {
        shape.name: round(last["queue_us_per_node"] / max(before["queue_us_per_node"], 0.1), 2)
        for shape in shapes
        for before, last in [[row for row in rows if row["shape"] == shape.name][-2:]]
    }
    return {"question": "nodes", "rows": rows, "queue_growth": growth}


if __name__ == "__main__":
    main_of(measure, __doc__)
