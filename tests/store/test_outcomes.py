"""What a settlement does beside releasing: retries, failures that stop a study, codes that stop workers."""

from __future__ import annotations

import pytest

from mrun.engine.records import OutcomeRun
from mrun.engine.store.store import Store
from tests.store.plans import S, make_plan, state_of, step_counts, submit, worker_of


async def test_stale_settle_changes_nothing(store: Store) -> None:
    await submit(store, make_plan(10, S("a", options={"chunk": 5})))
    worker = await worker_of(store, slots=1)
    (claim,) = await worker.claim()
    assert await worker.settle(claim, OutcomeRun(3, "finished")) == "ok"
    assert await worker.settle(claim, OutcomeRun(3, "finished")) == "lost"
    other = await worker_of(store, "other")
    assert await other.settle(claim, OutcomeRun(2, "finished"), lo=3) == "lost"
    worker.claims[claim.number] = claim
    assert await worker.settle(claim, OutcomeRun(2, "finished"), lo=3) == "ok"


async def test_retry_comes_back_after_its_delay_with_the_next_attempt(store: Store) -> None:
    study = await submit(store, make_plan(6, S("a", options={"chunk": 6, "retry_delay_s": 0.0})))
    worker = await worker_of(store, slots=1)
    (claim,) = await worker.claim()
    runs = [OutcomeRun(2, "finished"), OutcomeRun(3, "retry", resume=1), OutcomeRun(1, "finished")]
    await worker.settle(claim, *runs)
    assert await step_counts(store, study, 0) == {"finished": 3, "retrying": 3}
    (again,) = await worker.claim()
    assert (again.lo, again.hi, again.attempt, again.resume) == (2, 5, 1, 1)
    await worker.settle(again, OutcomeRun(3, "finished"))
    assert await state_of(store, study) == "finished"


async def test_hard_failure_stops_the_study_and_no_other(store: Store) -> None:
    bad = await submit(store, make_plan(100, S("a", options={"chunk": 1})))
    good = await submit(store, make_plan(3, S("a", queue="r")))
    worker = await worker_of(store, slots=2)
    first, second = await worker.claim()
    assert await worker.settle(first, OutcomeRun(1, "failed", flags=3)) == "stopping"
    assert await worker.claim() == []
    assert await state_of(store, bad) == "stopping"
    await worker.settle(second, OutcomeRun(1, "finished"))
    assert await state_of(store, bad) == "failed"
    other = await worker_of(store, "other", ("r",))
    await other.drain()
    assert await state_of(store, good) == "finished"


async def test_stop_workers_code_drains_those_that_serve_the_study(store: Store) -> None:
    await submit(store, make_plan(4, S("a", options={"chunk": 1}), S("t", False, queue="t", after=("a",))))
    worker = await worker_of(store, slots=1)
    only_ours = await worker_of(store, "ours", ("q", "t"))
    also_others = await worker_of(store, "others", ("q", "elsewhere"))
    (claim,) = await worker.claim()
    await worker.settle(claim, OutcomeRun(1, "finished", flags=4))
    assert (await worker.beat()).request == "drain"
    assert (await only_ours.beat()).request == "drain"
    assert (await also_others.beat()).request == ""


async def test_hard_failure_of_the_last_sample_ends_the_study_once_and_as_failed(store: Store) -> None:
    study = await submit(store, make_plan(1, S("a")))
    worker = await worker_of(store)
    (claim,) = await worker.claim()
    await worker.settle(claim, OutcomeRun(1, "failed", flags=3))
    assert await state_of(store, study) == "failed"
    events = await store.client.xrange(store.keys.events)
    assert [fields[b"state"] for _, fields in events] == [b"failed"]


async def test_retry_behind_a_hard_failure_of_the_same_claim_is_cancelled(store: Store) -> None:
    study = await submit(store, make_plan(3, S("a", options={"chunk": 3})))
    worker = await worker_of(store, slots=1)
    (claim,) = await worker.claim()
    runs = [OutcomeRun(1, "failed", flags=3), OutcomeRun(1, "retry"), OutcomeRun(1, "finished")]
    await worker.settle(claim, *runs)
    assert await state_of(store, study) == "failed"
    assert await step_counts(store, study, 0) == {"finished": 1, "failed": 1, "cancelled": 1}


async def test_worker_that_ran_the_stopping_sample_drains_whatever_else_it_serves(store: Store) -> None:
    await submit(store, make_plan(1, S("a")))
    worker = await worker_of(store, "w", ("q", "elsewhere"))
    (claim,) = await worker.claim()
    await worker.settle(claim, OutcomeRun(1, "finished", flags=4))
    assert (await worker.beat()).request == "drain"


async def test_stop_workers_code_of_the_last_sample_reaches_all_workers(store: Store) -> None:
    # Given more workers than one move looks at, and a study that is over with the sample that stops them
    await submit(store, make_plan(1, S("a")))
    workers = [await worker_of(store, f"w{number:03}") for number in range(150)]
    (claim,) = await workers[0].claim()
    await workers[0].settle(claim, OutcomeRun(1, "finished", flags=4))
    # When they beat, in an order that is not the one in which they are looked at
    requests = {worker.name: (await worker.beat()).request for worker in reversed(workers)}
    requests |= {worker.name: (await worker.beat()).request for worker in workers}
    assert set(requests.values()) == {"drain"}


async def test_retries_and_losses_of_a_study_that_stops_are_dropped(store: Store) -> None:
    study = await submit(store, make_plan(4, S("a", options={"chunk": 1, "retry_delay_s": 60.0})))
    worker = await worker_of(store, slots=2)
    first, second = await worker.claim()
    await worker.settle(first, OutcomeRun(1, "retry"))
    assert (await store.cancel(study)).running == 1
    await store.hand_back("w", second, second.lo)
    assert await state_of(store, study) == "cancelled"
    assert await store.client.exists(store.keys.later, store.keys.retries(study)) == 0


@pytest.mark.parametrize(("most", "failing", "state"), [(2, 2, "finished"), (2, 3, "failed"), (0, 1, "failed")])
async def test_more_failures_than_allowed_stop_the_study(store: Store, most: int, failing: int, state: str) -> None:
    study = await submit(store, make_plan(10, S("a", options={"chunk": 1, "max_fails": most})))
    worker = await worker_of(store, slots=1)
    await worker.drain(lambda c: [OutcomeRun(1, "failed" if c.lo < failing else "finished")])
    assert await state_of(store, study) == state
    counts = await step_counts(store, study, 0)
    assert counts["failed"] == failing
    assert counts.get("finished", 0) == (10 - failing if state == "finished" else 0)
