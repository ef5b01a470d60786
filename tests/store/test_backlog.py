"""What waits for workers: what fits, what is stranded, and what is not there yet."""

from __future__ import annotations

import json

from mrun.engine.records import OutcomeRun
from mrun.engine.store.backlog import Backlog, ClassNeeds, look_at_backlog
from mrun.engine.store.store import Store
from mrun.engine.store.views import Views
from tests.store.plans import SEAL, IdleWorker, S, make_plan, submit
from tests.store.test_leases import lose, now_ms

LONG_S = 7200
#: So many that half of them are more ranges than a stream keeps.
SCATTERED = 4000


def is_short(needs: ClassNeeds) -> bool:
    return needs.walltime_s < LONG_S


async def look(store: Store, *queues: str) -> Backlog:
    workers = await Views(store, SEAL).workers()
    return await look_at_backlog(store, queues or ("q",), workers, await now_ms(store), is_short)


async def test_ready_samples_of_all_studies_on_the_queues_are_counted(store: Store) -> None:
    await submit(store, make_plan(100, S("a"), S("b", queue="r")), queues="q,r")
    await submit(store, make_plan(7, S("a")), queues="q")
    assert await look(store) == Backlog(107, False, True)
    assert (await look(store, "q", "r")).ready == 207
    assert await look(store, "other") == Backlog(0, False, False)


async def test_what_does_not_fit_is_not_counted_wherever_it_stands(store: Store) -> None:
    # Given two classes on one queue, of which the second needs longer
    steps = (S("a", options={"resource_class": 0}), S("b", options={"resource_class": 1}))
    await submit(store, make_plan(100, *steps), queues="q", walltimes=json.dumps([0, LONG_S]))
    assert (await look(store)).ready == 100
    # A claim takes of an entry what it wants, and puts the rest back.
    worker = IdleWorker(store, "w", slots=1)
    await worker.beat()
    taken = sum(claim.hi - claim.lo for claim in await worker.claim())
    assert (await look(store)).ready == 100 - taken
    # Of a study nothing of which fits, nothing is due either
    await submit(store, make_plan(5, S("c")), queues="r", walltimes=json.dumps([LONG_S]))
    assert await look(store, "r") == Backlog(0, False, True)


async def test_loose_samples_are_counted_by_their_bits(store: Store) -> None:
    # Given every other sample of a step ready, which are too many for ranges, and a class beside it that does not fit
    first = S("a", queue="a", options={"chunk": 1000, "retry_delay_s": 3600.0})
    steps = (first, S("b", after=("a",)), S("c", options={"resource_class": 1}))
    plan, walltimes = make_plan(SCATTERED, *steps), json.dumps([0, LONG_S])
    study = await submit(store, plan, queues="a,q", walltimes=walltimes)
    worker, left = IdleWorker(store, "w", ("a",), 16), SCATTERED
    await worker.beat()
    while left:
        for claim in await worker.claim():
            retried = [OutcomeRun(1, "retry" if number % 2 else "finished") for number in range(claim.lo, claim.hi)]
            await worker.settle(claim, *retried)
            left -= claim.hi - claim.lo
    while await store.client.exists(store.keys.todo):
        await worker.beat()
    assert await store.client.exists(store.keys.scattered(study))
    assert (await look(store)).ready == SCATTERED // 2


async def test_samples_that_a_dead_worker_left_are_stranded_if_there_is_no_other(store: Store) -> None:
    await submit(store, make_plan(1, S("a")), queues="q")
    worker = IdleWorker(store, "w")
    await worker.beat()
    assert len(await worker.claim()) == 1
    assert await look(store) == Backlog(0, False, True)
    # When it is dead, and nobody sweeps
    await store.client.zadd(store.keys.workers, {"w": 1})
    assert await look(store) == Backlog(0, True, True)
    assert (await look(store)).samples == 1
    # Swept, they are ready.
    await lose(store, "w")
    assert await look(store) == Backlog(1, False, True)


async def test_a_retry_that_is_due_is_stranded_without_a_worker_and_one_that_is_not_due_is_not(store: Store) -> None:
    study = await submit(store, make_plan(1, S("a", options={"retry_delay_s": 600.0})), queues="q")
    worker = IdleWorker(store, "w")
    await worker.beat()
    (claim,) = await worker.claim()
    await worker.settle(claim, OutcomeRun(1, "retry"))
    await store.leave("w")
    assert await look(store) == Backlog(0, False, True)
    await store.client.zadd(store.keys.later, {study: 1})
    assert await look(store) == Backlog(0, True, True)


async def test_a_study_that_is_held_waits_for_nobody_and_one_that_ended_is_none(store: Store) -> None:
    study = await submit(store, make_plan(10, S("a")), queues="q")
    await store.hold(study, is_held=True)
    assert await look(store) == Backlog(0, False, True)
    await store.hold(study, is_held=False)
    assert (await look(store)).ready == 10
    await store.cancel(study)
    assert not (await look(store)).is_unfinished
