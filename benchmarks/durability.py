"""What does it cost that nothing acknowledged is lost when the server's machine dies?

One server, whose policy changes from round to round, so that ratios come from one run: `everysec`, the default;
`strict`, which on your own server is `appendfsync always`; and `strict_waiting`, the same with a WAITAOF at each commit
point, as on a server that flushes when it likes and whose WAITAOF can be believed. `commit_ms` lays a study of one
script down and commits it, `end_ms` settles its only sample, which ends node and study; `tasks_per_s` is four
connections that claim and settle 64 samples a call, as in dispatch.py, where nothing ends a node. `flush_ms` is a write
of 4 kB and a flush by this process: what the disk itself takes. Takes half a minute. Does not show: another disk. On
one that turns, or behind a network, a flush takes tens of milliseconds, and the ratios grow with it.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from benchmarks.dispatch import Row, mrun_round, queue_study
from benchmarks.figures import Size, main_of, median, spread
from benchmarks.stage import Stage, stage
from mrun.engine.records import ClaimRequest, OutcomeRun, Settlement, WorkerFacts
from mrun.engine.store.durability import FlushNeeds
from mrun.engine.store.seal import load_seal
from mrun.engine.store.store import Store
from mrun.engine.studies.enqueue import Order, check, enqueue, prepare

#: Policy of the server, and what is waited for besides.
WAYS = {
    "everysec": ("everysec", FlushNeeds()),
    "strict": ("always", FlushNeeds()),
    "strict_waiting": ("always", FlushNeeds(disk=True)),
}
SPEC = """
description: {name: one, description: nothing is run}
study:
  - name: a
    description: a step
    run: {cmd: "true", task_queue: one}
"""
DISPATCH = Row(bite=1, connections=4)


async def _studies(on: Stage, needs: FlushNeeds, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each commit, and of each settlement that ends a study."""
    client = await on.connect()
    store, worker = Store(client, "one", flush=needs), f"w{time.monotonic_ns()}"
    order = Order(str(on.directory / "one.yaml"), output_path=str(on.directory / "studies"))
    seal = load_seal(on.directory / "config" / "mrun")
    await store.beat(worker, 3600, (), 0, facts=WorkerFacts("benchmark", 1, ("one",), 1))
    commits, ends = [], []
    for _ in range(count):
        plan = prepare(check(order, on.environment, str(on.directory)))
        began = time.perf_counter()
        await enqueue(store, seal, plan, order)
        commits.append(1000 * (time.perf_counter() - began))
        (claim,) = (await store.claim(worker, ClaimRequest(1, ("one",)))).claims
        began = time.perf_counter()
        await store.settle(worker, [Settlement(claim.text, 0, 1, (OutcomeRun(1, "finished"),), 1.0)])
        ends.append(1000 * (time.perf_counter() - began))
    await store.leave(worker)
    await client.aclose()
    return commits, ends


def _flushes(on: Stage, count: int) -> list[float]:
    """Milliseconds of a write and a flush, on the server's disk."""
    found = []
    with (on.directory / "flushed").open("wb", buffering=0) as file:
        for _ in range(count):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            found.append(1000 * (time.perf_counter() - began))
    return found


def _row(rows: dict[str, dict[str, list[float]]], way: str) -> dict[str, Any]:
    """A way's figures, and their ratio to those of the default."""
    times = {name: spread(rows[way][name]) for name in ("commit_ms", "end_ms")}
    rate, base = median(rows[way]["tasks_per_s"], 0), median(rows["everysec"]["tasks_per_s"], 0)
    ratio = {name: round(median(rows[way][name]) / median(rows["everysec"][name]), 2) for name in times}
    return times | {"tasks_per_s": rate, "ratio": ratio | {"tasks_per_s": round(rate / base, 2)}}


def measure(size: Size) -> dict[str, Any]:
    """All ways, round by round in turn."""
    rounds, count, seconds = {Size.SMALLEST: (1, 2, 0.1), Size.QUICK: (4, 20, 0.7), Size.FULL: (10, 40, 1.0)}[size]
    found: dict[str, dict[str, list[float]]] = {way: {"commit_ms": [], "end_ms": [], "tasks_per_s": []} for way in WAYS}
    flushes: list[float] = []
    with stage() as on:
        (on.directory / "one.yaml").write_text(SPEC)
        queue_study(on, DISPATCH)
        for _ in range(rounds):
            flushes += _flushes(on, 5 * count)
            for way, (policy, needs) in WAYS.items():
                on.client.config_set("appendfsync", policy)
                commits, ends = asyncio.run(_studies(on, needs, count))
                found[way]["commit_ms"] += commits
                found[way]["end_ms"] += ends
                dispatched = asyncio.run(mrun_round(on, DISPATCH, seconds))
                found[way]["tasks_per_s"].append(dispatched.tasks / dispatched.seconds)
    return {"question": "durability", "flush_ms": spread(flushes), "rows": {way: _row(found, way) for way in WAYS}}


if __name__ == "__main__":
    main_of(measure, __doc__)
