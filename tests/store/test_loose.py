"""Scattered samples, ready or to be run again, cost bits and not entries; and none of them is lost or run twice."""

from __future__ import annotations

from typing import Any

import pytest

from mrun.engine.records import OutcomeRun
from mrun.engine.store.store import Store
from tests.store.plans import IdleWorker, S, make_plan, state_of, step_counts, submit, worker_of

SAMPLES = 30_000
FINISHED, RETRY = OutcomeRun(1, "finished"), OutcomeRun(1, "retry")


async def settle_every_second_again(store: Store, delay_s: float) -> tuple[str, IdleWorker]:
    """A chain of which every second sample of the first step is to run again; the second step's queue has no worker."""
    options: dict[str, Any] = {"retry_delay_s": delay_s, "chunk": 1000}
    plan = make_plan(SAMPLES, S("a", queue="a", options=options), S("b", queue="b", after=("a",)))
    study = await submit(store, plan)
    a = await worker_of(store, "a", ("a",), 16)
    left = SAMPLES
    while left:
        for claim in await a.claim():
            size = claim.hi - claim.lo
            await a.settle(claim, *[RETRY if i % 2 else FINISHED for i in range(claim.lo, claim.hi)])
            left -= size
    return study, a


async def finish_todo(store: Store, worker: IdleWorker) -> None:
    while await store.client.exists(store.keys.todo):
        await worker.beat()


@pytest.mark.slow
async def test_scattered_retries_wait_as_bits_and_each_runs_once_more(store: Store) -> None:
    study, a = await settle_every_second_again(store, 3600)
    later = store.keys.retries(study)
    assert (await step_counts(store, study, 0)) == {"finished": SAMPLES // 2, "retrying": SAMPLES // 2}
    # I expect far fewer members than retries, and not one due early
    assert await store.client.zcard(later) < 1500
    assert await a.claim() == []
    # When the hour is over
    await store.client.zadd(later, dict.fromkeys(await store.client.zrange(later, 0, -1), 1))
    await store.client.zadd(store.keys.later, {study: 1})
    await a.drain()
    b = await worker_of(store, "b", ("b",), 16)
    assert (await step_counts(store, study, 1)) == {"ready": SAMPLES}
    # I expect all to have run once in the end, and the child's samples to be one range again, or a few
    await b.drain()
    assert len(a.settled) == len(b.settled) == SAMPLES
    assert set((a.settled + b.settled).values()) == {1}
    assert await state_of(store, study) == "finished"


@pytest.mark.slow
async def test_scattered_ready_samples_are_few_entries(store: Store) -> None:
    # Given half of the child's samples ready, none beside another
    study, a = await settle_every_second_again(store, 3600)
    await finish_todo(store, a)
    counts = await step_counts(store, study, 1)
    assert counts == {"ready": SAMPLES // 2}
    entries = await store.client.xlen(store.keys.stream("b", study, 0))
    assert entries < 1100
    # When a worker for them comes, I expect just these, and nothing of them to be left over
    b = await worker_of(store, "b", ("b",), 64)
    await b.drain()
    assert sorted(i for _, _, i in b.settled) == list(range(0, SAMPLES, 2))
    assert set(b.settled.values()) == {1}
    assert not await store.client.exists(store.keys.stream("b", study, 0), f"{store.keys.study(study)}:scattered")


@pytest.mark.parametrize("verb", ["cancel", "purge"])
async def test_study_that_is_stopped_leaves_no_bits(store: Store, verb: str) -> None:
    study, a = await settle_every_second_again(store, 3600)
    await store.purge(study) if verb == "purge" else await store.cancel(study)
    await finish_todo(store, a)
    keys = {key.decode().split(study)[1] for key in await store.client.keys(f"*{study}*")}
    assert keys == (set() if verb == "purge" else {""})


async def test_bits_that_somebody_deleted_fail_their_study(store: Store) -> None:
    study, a = await settle_every_second_again(store, 3600)
    await finish_todo(store, a)
    for key in await store.client.keys(f"*{study}:scattered:*"):
        await store.client.delete(key)
    b = await worker_of(store, "b", ("b",), 64)
    await b.drain()
    assert await state_of(store, study) in ("failed", "stopping")
    assert b"mrun restart" in await store.client.hget(store.keys.study(study), "why")
