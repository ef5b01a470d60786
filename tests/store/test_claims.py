"""What a worker gets when it asks, how much of it, and in which order."""

from __future__ import annotations

from mrun.engine.records import OutcomeRun
from mrun.engine.store.store import Store
from tests.store.plans import S, make_plan, state_of, step_counts, submit, worker_of


async def test_handed_back_ranges_merge_with_what_was_never_claimed(store: Store) -> None:
    study = await submit(store, make_plan(1000, S("a", options={"chunk": 10})))
    worker = await worker_of(store, slots=4)
    claims = await worker.claim()
    for claim in claims:
        assert await store.hand_back("w", claim, claim.lo)
        assert not await store.hand_back("w", claim, claim.lo)
    stream = store.keys.stream("q", study, 0)
    entries = await store.client.xrange(stream)
    assert [fields[b"t"] for _, fields in entries] == [b"0 0 0 1000 0 0 0"]
    assert await step_counts(store, study, 0) == {"ready": 1000}


async def test_slow_sample_hands_the_rest_back_and_bites_fall_to_one(store: Store) -> None:
    await submit(store, make_plan(10_000, S("a")))
    worker = await worker_of(store, slots=1)
    (claim,) = await worker.claim()
    await worker.settle(claim, OutcomeRun(claim.hi - claim.lo, "finished"))
    (claim,) = await worker.claim()
    assert claim.hi - claim.lo > 100
    await store.hand_back("w", claim, claim.lo + 1, slow_ms=2000)
    await worker.settle(claim, OutcomeRun(1, "finished"))
    worker.claims.clear()
    (claim,) = await worker.claim()
    assert claim.hi - claim.lo == 1


async def test_sample_that_resumes_leaves_the_rest_of_its_claim_as_it_was(store: Store) -> None:
    # Given a claim whose last sample had begun when it was handed back
    await submit(store, make_plan(3, S("a", options={"chunk": 3})))
    worker = await worker_of(store, slots=1)
    (claim,) = await worker.claim()
    await store.hand_back("w", claim, 2, is_started=True)
    # When the others come back too
    await store.leave("w")
    other = await worker_of(store, "other")
    claims = await other.drain()
    assert {(c.lo, c.hi): c.resume for c in claims} == {(2, 3): 1, (0, 2): 0}


async def test_worker_sees_the_studies_behind_many_that_it_does_not_want(store: Store) -> None:
    # Given more streams of other studies than one look at a queue takes
    for _ in range(70):
        await submit(store, make_plan(1, S("a")), priority=1)
    mine = await submit(store, make_plan(1, S("a")))
    worker = await worker_of(store)
    # When a worker asks for one study only
    claims = await worker.claim(root_study=mine)
    assert [claim.study for claim in claims] == [mine]


async def test_one_call_claims_no_more_than_it_may(store: Store) -> None:
    await submit(store, make_plan(1000, S("a", options={"chunk": 1})))
    worker = await worker_of(store, slots=500)
    assert len(await worker.claim()) == 64


async def test_walltime_that_does_not_fit_is_passed_over(store: Store) -> None:
    plan = make_plan(1, S("long", options={"resource_class": 0}), S("short", options={"resource_class": 1}))
    await submit(store, plan, walltimes="[3600,60,0]")
    worker = await worker_of(store, slots=4)
    (claim,) = await worker.claim(time_left_ms=120_000)
    assert claim.node == 1
    (claim,) = await worker.claim(time_left_ms=-1)
    assert claim.node == 0


async def test_chosen_chunk_is_the_bite_until_samples_prove_slow(store: Store) -> None:
    await submit(store, make_plan(10_000, S("a", options={"chunk": 300})))
    worker = await worker_of(store, slots=1)
    (claim,) = await worker.claim()
    assert claim.hi - claim.lo == 300
    # A sample of a quarter of an hour: nobody wants 300 of them behind one slot
    await store.hand_back("w", claim, claim.lo + 1, slow_ms=900_000)
    await worker.settle(claim, OutcomeRun(1, "finished"))
    worker.claims.clear()
    (claim,) = await worker.claim()
    assert claim.hi - claim.lo == 1


async def test_held_study_is_not_claimed_and_goes_on_when_it_is_released(store: Store) -> None:
    study = await submit(store, make_plan(6, S("a", options={"chunk": 3}), S("b", after=("a",))))
    worker = await worker_of(store, slots=1)
    (claim,) = await worker.claim()
    assert await store.hold(study, is_held=True) == "ok"
    assert await worker.claim() == []
    # What runs is accounted, and what it makes ready waits
    await worker.settle(claim, OutcomeRun(3, "finished"))
    assert await step_counts(store, study, 1) == {"ready": 3}
    assert await worker.claim() == []
    await store.client.delete(store.keys.bell("q"))
    assert await store.hold(study, is_held=False) == "ok"
    assert await store.client.llen(store.keys.bell("q")) == 1
    await worker.drain()
    assert await state_of(store, study) == "finished"
    assert [await store.hold(study, is_held=True), await store.hold("nosuch", is_held=True)] == ["ended", "gone"]


async def test_higher_priority_is_claimed_first(store: Store) -> None:
    first = await submit(store, make_plan(3, S("a", options={"chunk": 1})))
    second = await submit(store, make_plan(3, S("a", options={"chunk": 1})))
    worker = await worker_of(store, slots=1)
    assert await store.prioritize(second, 5) == "ok"
    claims = await worker.drain()
    assert [claim.study for claim in claims] == [second] * 3 + [first] * 3
    assert [await store.prioritize(second, 1), await store.prioritize("nosuch", 1)] == ["ended", "gone"]


async def test_study_that_comes_after_another_waits_for_its_end(store: Store) -> None:
    first = await submit(store, make_plan(2, S("a", queue="first")))
    after = await submit(store, make_plan(2, S("a")), after=first)
    late, purged = await submit(store, make_plan(2, S("a")), after=first), await submit(store, make_plan(2, S("a")))
    last = await submit(store, make_plan(2, S("a", queue="last")), after=purged)
    worker, early = await worker_of(store), await worker_of(store, "early", ("first",))
    assert {claim.study for claim in await worker.drain()} == {purged}
    assert {claim.study for claim in await early.drain()} == {first}
    assert {claim.study for claim in await worker.drain()} == {after, late}
    # The one that `last` waited for had ended by itself
    assert {claim.study for claim in await (await worker_of(store, "w2", ("last",))).drain()} == {last}
    # One that is queued when the other has ended does not wait
    assert (await step_counts(store, await submit(store, make_plan(2, S("a")), after=first), 0)) == {"ready": 2}
    assert len(await worker.drain()) == 2
    # and one whose predecessor is purged goes on
    other = await submit(store, make_plan(1_000, S("a", queue="nobody")))
    heir = await submit(store, make_plan(2, S("a")), after=other)
    assert await worker.claim() == []
    await store.purge(other)
    assert {claim.study for claim in await worker.drain()} == {heir}
