"""What does the server's memory grow by when a study goes badly, at its worst moment?

A chain of two steps over 2·10⁶ samples, whose second step's queue nobody listens to. Every second sample of the first
step fails and blocks its child; or is to run again (and then is ready, one here, one there); or all samples are settled
one by one in a random order of stretches. Takes about a minute with the default of a million such samples. Does not
show: the worker, which keeps nothing of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random

import redis.asyncio

from benchmarks.stage import Stage, stage
from mrun.engine.plan.model import Node, Plan, PlanStep, SampleTable
from mrun.engine.records import Claim, ClaimRequest, OutcomeRun, Settlement, WorkerFacts
from mrun.engine.store.seal import Seal
from mrun.engine.store.store import Store

_SEAL = Seal(bytes(32))
#: Samples of one claim.
_BITE = 10_000
_WORKER = "w"


def make_plan(samples: int, retry_delay_s: float) -> Plan:
    """Two steps, sample by sample."""
    steps = tuple(
        PlanStep(
            index=index, name=name, directory=name, shell="/bin/sh", cmd=("true\n",), restart=None, uses_samples=True,
            first_node=index, rows=(), parameters=(), chunk=_BITE, retry_delay_s=retry_delay_s,
        )
        for index, name in enumerate("ab")
    )  # fmt: skip
    nodes = (Node(step=0, queue="a"), Node(step=1, queue="b", each_parents=(0,)))
    table = SampleTable("npy", "/nowhere.npy", samples, ("X",), 0, 0, "<f8")
    return Plan("memory", "m", "/nowhere", "/nowhere.yaml", steps, nodes, samples=table)


class Case:
    """One study, and a worker that runs nothing."""

    def __init__(self, one: Stage, store: Store) -> None:
        self.one, self.store = one, store

    async def begin(self, samples: int, retry_delay_s: float = 1e4) -> int:
        """Queue the study; the server's memory then."""
        await self.store.client.execute_command("FLUSHALL", "SYNC")
        facts = WorkerFacts(host="h", pid=1, queues=("a",), slots=4)
        await self.store.beat(_WORKER, 3600, [], 0, facts=facts)
        staged = await self.store.submit("s", make_plan(samples, retry_delay_s), _SEAL)
        words = ["name", "m", "root", "s", "walltimes", "[0]", "instances_left", 2, "step_count", 2]
        await self.store.commit("s", staged, words)
        return self.one.server_bytes()

    async def claim(self, free_slots: int = 4) -> tuple[Claim, ...]:
        """The next bites."""
        return (await self.store.claim(_WORKER, ClaimRequest(free_slots, ("a",)))).claims

    async def settle_all(self, runs: tuple[OutcomeRun, ...]) -> int:
        """Settle everything that is ready, with the same runs over and over; how many samples that were."""
        done = 0
        while claims := await self.claim():
            for claim in claims:
                size = claim.hi - claim.lo
                pieces = runs * (size // sum(run.count for run in runs)) or (OutcomeRun(size, "finished"),)
                upto = claim.lo + sum(run.count for run in pieces)
                await self.store.settle(_WORKER, [Settlement(claim.text, claim.lo, upto, pieces, 1.0)])
                done += upto - claim.lo
        return done


async def every_second(case: Case, bad: int, run: OutcomeRun, retry_delay_s: float = 1e4) -> int:
    """Growth in bytes when every second sample ends like `run`."""
    before = await case.begin(2 * bad, retry_delay_s)
    await case.settle_all((OutcomeRun(1, "finished"), run))
    return case.one.server_bytes() - before


async def retried_and_ready(case: Case, bad: int) -> int:
    """Growth when every second sample is ready once more, none beside another."""
    before = await case.begin(2 * bad)
    await case.settle_all((OutcomeRun(1, "finished"), OutcomeRun(1, "retry")))
    client, keys = case.store.client, case.store.keys
    # As if the hours of the delay had passed.
    later = keys.retries("s")
    await client.zadd(later, dict.fromkeys(await client.zrange(later, 0, -1), 1))
    await client.zadd(keys.later, {"s": 1})
    counts: dict[bytes, bytes] = {b"0:retrying": b"1"}
    while int(counts[b"0:retrying"]):
        for claim in await case.claim(1):
            await case.store.hand_back(_WORKER, claim, claim.lo)
        counts = await client.hgetall(keys.study("s"))
    assert int(counts[b"0:ready"]) == bad, counts
    return case.one.server_bytes() - before


async def one_by_one(case: Case, samples: int) -> int:
    """Growth at the worst moment when samples are settled one at a time, by 64 claims that advance at random."""
    before = worst = await case.begin(samples)
    dice = random.Random(1)
    held: list[Claim] = []
    steps = 0
    while True:
        held += await case.claim(64 - len(held)) if len(held) < 64 else ()
        if not held:
            return worst - before
        chosen = dice.sample(range(len(held)), min(32, len(held)))
        done = [Settlement(held[i].text, held[i].lo, held[i].lo + 1, (OutcomeRun(1, "finished"),), 1.0) for i in chosen]
        await case.store.settle(_WORKER, done)
        for i in chosen:
            old = held[i]
            held[i] = Claim(old.number, old.study, old.node, old.lo + 1, old.hi, old.attempt, old.losses, old.resume)
        held = [claim for claim in held if claim.lo < claim.hi]
        steps += 1
        if steps % 100 == 0:
            worst = max(worst, case.one.server_bytes())


async def measure(one: Stage, bad: int) -> dict[str, int]:
    """All cases, bytes."""
    client = redis.asyncio.Redis(unix_socket_path=f"{one.directory}/s")
    case = Case(one, Store(client, "mrun"))
    rows = {
        "failing": await every_second(case, bad, OutcomeRun(1, "failed")),
        "failing_and_blocking": await every_second(case, bad, OutcomeRun(1, "failed", 0, 1)),
        "waiting_to_run_again": await every_second(case, bad, OutcomeRun(1, "retry")),
        "ready_to_run_again": await retried_and_ready(case, bad),
        "settled_one_by_one": await one_by_one(case, bad),
    }
    await client.aclose()
    return rows


def main() -> None:
    """Print one JSON value."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000, help="how many go badly")
    bad = parser.parse_args().samples
    with stage() as one:
        rows = asyncio.run(measure(one, bad))
    print(json.dumps({"question": "memory", "samples": bad, "growth_bytes": rows}, indent=2))


if __name__ == "__main__":
    main()
