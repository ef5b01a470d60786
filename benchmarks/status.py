"""How long does a look take: `mrun status` of a study of a hundred million samples, and of one of 50,000 nodes?

Both studies are in the middle: claims are settled in both, and some samples have failed. Commands take turns with a
bare start of Python, and with one that imports click, which is what a command line of Python costs at least. Takes
about twenty seconds. Does not show: a server that is busy or far away.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from benchmarks.figures import Size, main_of, median
from benchmarks.nodes import Shape, spec_of
from benchmarks.stage import Stage, stage
from mrun.engine.records import ClaimRequest, OutcomeRun, Settlement, WorkerFacts
from mrun.engine.store.store import Store

LARGE = """
description: {name: status, description: a hundred million samples}
study:
  - name: a
    description: a step
    run: {cmd: "true $(X)", chunk: 1000, task_queue: large}
  - name: b
    description: goes sample by sample
    run: {cmd: "true $(X)", depends: [a]}
merlin:
  samples: {file: samples.npy, column_labels: [X]}
"""
SAMPLES = 100_000_000


async def _settle_some(on: Stage, queue: str, calls: int) -> None:
    """Claims of which one sample in ten, or each tenth claim of one sample, failed."""
    client = await on.connect()
    store = Store(client, "mrun")
    await store.beat("w", 600, (), 0, facts=WorkerFacts("benchmark", 1, (queue,), 64))
    for _ in range(calls):
        answer = await store.claim("w", ClaimRequest(64, (queue,)))
        settlements = []
        for number, claim in enumerate(answer.claims):
            count = claim.hi - claim.lo
            failed = count // 10 if count > 1 else int(number % 10 == 0)
            runs = [OutcomeRun(failed, "failed"), OutcomeRun(count - failed, "finished")]
            settlements.append(
                Settlement(claim.text, claim.lo, claim.hi, tuple(run for run in runs if run.count), 1.0 * count)
            )
        await store.settle("w", settlements)
    await client.aclose()


def _time(on: Stage, words: tuple[str, ...]) -> float:
    began = time.perf_counter()
    on.command(*words)
    return 1000 * (time.perf_counter() - began)


def measure(size: Size) -> dict[str, Any]:
    """All commands, in turns."""
    combinations, rounds = {Size.SMALLEST: (10, 1), Size.QUICK: (1000, 7), Size.FULL: (1000, 25)}[size]
    with stage() as on:
        on.samples(SAMPLES)
        large = on.queue(LARGE)
        asyncio.run(_settle_some(on, "large", 20))
        many = on.queue(spec_of(Shape("deep", 50, (combinations,), has_samples=False), combinations))
        asyncio.run(_settle_some(on, "merlin", 10))
        mrun = f"{sys.executable} -m mrun".split()
        commands = {
            "python": (sys.executable, "-c", "pass"),
            "python_click": (sys.executable, "-c", "import click"),
            "mrun_help": (*mrun, "--help"),
            "status_100m_samples": (*mrun, "status", large),
            "status_50k_nodes": (*mrun, "status", many),
        }
        found: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, words in commands.items():
                found[name].append(_time(on, words))
        server_ms = _server_ms(on, (large, many))
    times = {name: median(values, 1) for name, values in found.items()}
    return {
        "question": "status",
        "nodes": combinations * 50,
        "median_ms": times,
        "over_python_click": {
            name: round(times[name] / times["python_click"], 2) for name in commands if not name.startswith("python")
        },
        "server_ms_for_both": server_ms,
    }


def _server_ms(on: Stage, studies: tuple[str, ...]) -> float:
    """What the server has to do for a status of each."""
    on.client.config_resetstat()
    for study in studies:
        on.mrun("status", study)
    return round(on.command_ms(), 3)


if __name__ == "__main__":
    main_of(measure, __doc__)
