"""Keys of the namespace are deleted, replaced by one of another type, or filled with nonsense: they belong to no study.

No move may fail for it, so no worker ends; and every study comes to its end, with each sample counted once.
"""

from __future__ import annotations

import itertools

import pytest

from mrun.engine.records import OutcomeRun
from mrun.engine.store.store import Store
from mrun.engine.store.views import Views
from tests.store.plans import SEAL, IdleWorker, S, make_plan, state_of, step_counts, submit
from tests.store.test_leases import eventually

SAMPLES = 12
KEYS = (
    *("clock", "studies", "workers", "leases", "deaths", "slots", "later", "todo", "events"),
    *("queue:q", "bell:q", "worker:one", "worker:one:bell"),
)
DAMAGES = ("deleted", "another type", "garbage")
GARBAGE = ("x", "-1", "1e300", "nan", "")


async def damage(store: Store, name: str, how: str) -> None:
    client, key = store.client, f"{store.keys.root}{name}"
    kind = (await client.type(key)).decode()
    if how == "deleted":
        await client.delete(key)
    elif how == "another type":
        await client.delete(key)
        await (client.hset(key, "x", "y") if kind in ("string", "none") else client.set(key, "text"))
    elif kind == "hash":
        fields = sorted(await client.hkeys(key))
        await client.hset(key, mapping=dict(zip(fields, itertools.cycle(GARBAGE))))
    elif kind == "zset":
        await client.zadd(key, {f"garbage{number}": number for number in range(3)} | {"a:b:c": 1, "nosuch:0": 2})
    elif kind == "list":
        await client.lpush(key, "garbage")
    elif kind == "stream":
        await client.xadd(key, {"garbage": "x"})


@pytest.mark.parametrize(("name", "how"), list(itertools.product(KEYS, DAMAGES)))
async def test_damaged_key_of_the_namespace_ends_no_worker_and_no_study(store: Store, name: str, how: str) -> None:
    # Given studies that run, retry and wait, and two workers
    plan = make_plan(SAMPLES, S("a", options={"chunk": 1, "retry_delay_s": 0.0}), S("b", after=("a",)))
    studies = [await submit(store, plan) for _ in range(2)]
    one, two = IdleWorker(store, "one", slots=3), IdleWorker(store, "two", slots=2)
    for worker in (one, two):
        await worker.beat()
    for number, claim in enumerate(await one.claim()):
        await one.settle(claim, OutcomeRun(1, "retry" if number else "finished"))
    await one.claim()
    await store.stop(["nobody"])
    # When somebody damages a key, and both go on
    await damage(store, name, how)

    async def is_over() -> bool:
        for worker in (one, two):
            answer = await worker.beat()
            for text in answer.lost:
                worker.claims.pop(int(text), None)
            for claim in list(worker.claims.values()):
                await worker.settle(claim, OutcomeRun(claim.hi - claim.lo, "finished"))
            await worker.claim()
            await store.reclaim(worker.name)
        return [await state_of(store, study) for study in studies] == ["finished", "finished"]

    await eventually(is_over, f"both studies end: {[await state_of(store, study) for study in studies]}")
    # I expect that all is counted, and that views show it
    for study, step in itertools.product(studies, range(2)):
        assert await step_counts(store, study, step) == {"finished": SAMPLES}
    assert (await Views(store, SEAL).status(studies[0])).failures == 0
    await Views(store, SEAL).inspect()
