"""What each move promises, on real servers."""

from __future__ import annotations

import numpy as np
import pytest

from mrun.engine.errors import NotFoundError, UsageError
from mrun.engine.plan.downstream import with_downstream
from mrun.engine.records import OutcomeRun
from mrun.engine.store.store import Staged, Store
from mrun.engine.work.history import past_of, without
from tests.store.plans import SEAL, IdleWorker, S, make_plan, submit


async def worker_of(store: Store, name: str = "w", queues: tuple[str, ...] = ("q",), slots: int = 2) -> IdleWorker:
    worker = IdleWorker(store, name, queues, slots)
    await worker.beat()
    return worker


async def state_of(store: Store, study: str) -> str:
    return (await store.client.hget(store.keys.study(study), "state") or b"gone").decode()


async def step_counts(store: Store, study: str, step: int) -> dict[str, int]:
    raw = await store.client.hgetall(store.keys.step(study, step))
    counts = {key.decode(): float(value) for key, value in raw.items()}
    states = ("ready", "running", "retrying", "finished", "failed", "dead", "skipped", "cancelled")
    return {name: int(counts[name]) for name in states if counts.get(name)}


async def test_study_runs_to_its_end_with_every_sample_settled_once(store: Store) -> None:
    # Given a chain of two sample steps and a funnel
    study = await submit(store, make_plan(500, S("a"), S("b", after=("a",)), S("f", False, after=("b",))))
    worker = await worker_of(store)
    # When a worker settles whatever it gets
    claims = await worker.drain()
    # I expect each sample of each node once, the funnel last, and the study finished
    assert sorted(worker.settled) == [(study, n, i) for n in (0, 1) for i in range(500)] + [(study, 2, 0)]
    assert set(worker.settled.values()) == {1}
    assert claims[-1].node == 2
    assert await state_of(store, study) == "finished"
    assert await step_counts(store, study, 0) == {"finished": 500}
    assert await step_counts(store, study, 2) == {"finished": 1}


async def test_ended_study_leaves_only_its_counters_and_they_expire(store: Store) -> None:
    study = await submit(store, make_plan(50, S("a"), S("f", False, after=("a",))))
    worker = await worker_of(store)
    await worker.drain()
    await store.leave("w")
    keys = {key.decode() for key in await store.client.keys(f"*{study}*")}
    assert keys == {store.keys.study(study), store.keys.step(study, 0), store.keys.step(study, 1)}
    for key in keys:
        assert await store.client.ttl(key) > 0


async def test_purged_study_leaves_no_key(store: Store) -> None:
    study = await submit(store, make_plan(3_000_000, S("a"), S("b", after=("a",))))
    worker = await worker_of(store)
    claims = await worker.claim()
    assert await store.purge(study)
    assert await worker.settle(claims[0], OutcomeRun(1, "finished")) == "gone"
    assert (await worker.beat()).lost == tuple(c.text for c in claims[1:])
    worker.claims.clear()
    await worker.beat()
    await store.leave("w")
    assert [key for key in await store.client.keys("*") if study.encode() in key] == []
    assert not await store.purge(study)


async def test_diamond_puts_a_sample_when_its_last_parent_settles(store: Store) -> None:
    plan = make_plan(40, S("a", queue="a"), S("b", queue="b"), S("c", queue="c", after=("a", "b")))
    study = await submit(store, plan)
    a, b, c = [await worker_of(store, q, (q,)) for q in "abc"]
    # Given one parent wholly settled, nothing of the child is claimable
    await a.drain()
    assert await c.claim() == []
    # When the other settles some, exactly those are
    got = await b.claim()
    for claim in got:
        await b.settle(claim, OutcomeRun(claim.hi - claim.lo, "finished"))
    assert (await step_counts(store, study, 2))["ready"] == sum(x.hi - x.lo for x in got)
    await c.drain()
    await b.drain()
    await c.drain()
    assert len(c.settled) == 40
    assert set(c.settled.values()) == {1}
    assert await state_of(store, study) == "finished"


@pytest.mark.parametrize("first", ["a", "g"])
async def test_mixed_parents_of_a_sample_step(store: Store, first: str) -> None:
    # c goes sample by sample with a, and waits for all of g
    plan = make_plan(300, S("a", queue="a"), S("g", False, queue="g"), S("c", queue="c", after=("a", "g")))
    study = await submit(store, plan)
    workers = {q: await worker_of(store, q, (q,)) for q in "agc"}
    await workers[first].drain()
    assert await workers["c"].claim() == []
    await workers["g" if first == "a" else "a"].drain()
    await workers["c"].drain()
    assert sorted(workers["c"].settled.values()) == [1] * 300
    assert await state_of(store, study) == "finished"


async def test_barrier_waits_for_every_node_of_the_parent_step(store: Store) -> None:
    plan = make_plan(7, S("a", rows=300, queue="a"), S("f", False, rows=400, queue="f", after=("a*",)))
    study = await submit(store, plan)
    a, f = await worker_of(store, "a", ("a",), 64), await worker_of(store, "f", ("f",), 64)
    while len(a.settled) < 300 * 7:
        assert await f.claim() == []
        for claim in await a.claim():
            await a.settle(claim, OutcomeRun(claim.hi - claim.lo, "finished"))
    while await state_of(store, study) == "running":
        for claim in await f.claim():
            await f.settle(claim, OutcomeRun(1, "finished"))
    assert len(f.settled) == 400
    assert set(f.settled.values()) == {1}


async def test_wide_fan_out_of_sample_steps_is_released_in_pieces(store: Store) -> None:
    # One parent node, 700 children that go sample by sample with it: more than one move may touch.
    plan = make_plan(5, S("a", queue="a"), S("b", rows=700, queue="b", after=("a",)))
    study = await submit(store, plan)
    a, b = await worker_of(store, "a", ("a",)), await worker_of(store, "b", ("b",), 64)
    await a.drain()
    while await state_of(store, study) == "running":
        for claim in await b.claim():
            await b.settle(claim, OutcomeRun(claim.hi - claim.lo, "finished"))
    assert len(b.settled) == 700 * 5
    assert set(b.settled.values()) == {1}


async def test_blocking_sample_skips_its_own_child_and_no_funnel(store: Store) -> None:
    plan = make_plan(10, S("a"), S("b", after=("a",)), S("f", False, after=("b",)))
    study = await submit(store, plan)
    worker = await worker_of(store)

    def outcome(claim):
        return [
            OutcomeRun(1, "failed", flags=1) if claim.node == 0 and i == 3 else OutcomeRun(1, "finished")
            for i in range(claim.lo, claim.hi)
        ]

    await worker.drain(outcome)
    assert await step_counts(store, study, 0) == {"finished": 9, "failed": 1}
    assert await step_counts(store, study, 1) == {"finished": 9, "skipped": 1}
    assert await step_counts(store, study, 2) == {"finished": 1}


async def test_wholly_blocking_parent_skips_everything_downstream(store: Store) -> None:
    plan = make_plan(1_500_000, S("g", False), S("b", after=("g",)), S("c", after=("b",)), S("f", False, after=("c",)))
    study = await submit(store, plan)
    worker = await worker_of(store)
    await worker.drain(lambda claim: [OutcomeRun(1, "failed", flags=1)])
    await worker.beat()
    assert await state_of(store, study) == "finished"
    assert await step_counts(store, study, 1) == {"skipped": 1_500_000}
    assert await step_counts(store, study, 2) == {"skipped": 1_500_000}
    assert await step_counts(store, study, 3) == {"skipped": 1}


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


async def test_handed_back_ranges_merge_with_what_was_never_claimed(store: Store) -> None:
    study = await submit(store, make_plan(1000, S("a", options={"chunk": 10})))
    worker = await worker_of(store, slots=4)
    claims = await worker.claim()
    for claim in claims:
        assert await store.hand_back("w", claim, claim.lo)
        assert not await store.hand_back("w", claim, claim.lo)
    stream = store.keys.stream("q", study, 0)
    entries = await store.client.xrange(stream)
    assert [fields[b"t"] for _, fields in entries] == [b"0 0 1000 0 0 0"]
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


async def test_cancel_stops_claims_at_once_and_ends_when_the_last_running_sample_does(store: Store) -> None:
    study = await submit(store, make_plan(100_000_000, S("a"), S("f", False, after=("a",))))
    worker = await worker_of(store)
    claims = await worker.claim()
    answer = await store.cancel(study)
    assert (answer.status, answer.running) == ("ok", 2)
    assert await worker.claim() == []
    assert set((await worker.beat()).kill) == {c.text for c in claims}
    for claim in claims:
        assert await worker.settle(claim, OutcomeRun(1, "cancelled", flags=1)) == "stopping"
    assert await state_of(store, study) == "cancelled"
    assert (await store.cancel(study)).status == "ended"
    assert (await store.cancel("nosuch")).status == "gone"


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


async def test_streams_are_deleted_by_the_settle_that_empties_them(store: Store) -> None:
    study = await submit(store, make_plan(5, S("a"), S("b", after=("a",), queue="nobody")))
    worker = await worker_of(store)
    await worker.drain()
    assert await store.client.exists(store.keys.stream("q", study, 0)) == 0
    assert await store.client.zcard(f"{store.keys.root}queue:q") == 0
    assert await store.client.xlen(store.keys.stream("nobody", study, 0)) == 1


async def test_nobody_gets_what_was_staged_and_it_expires(store: Store) -> None:
    await store.submit("half", make_plan(5, S("a")), SEAL)
    worker = await worker_of(store)
    assert await worker.claim() == []
    assert 0 < await store.client.ttl(store.keys.plan("half")) <= 3600
    assert await store.client.zcard(store.keys.named("studies")) == 0


async def test_many_one_sample_settles_leave_one_entry_for_the_child(store: Store) -> None:
    study = await submit(store, make_plan(2000, S("a", options={"chunk": 1}), S("b", after=("a",), queue="nobody")))
    worker = await worker_of(store, slots=64)
    await worker.drain()
    assert await store.client.xlen(store.keys.stream("nobody", study, 0)) == 1
    assert await step_counts(store, study, 1) == {"ready": 2000}


async def test_hard_failure_of_the_last_sample_ends_the_study_once_and_as_failed(store: Store) -> None:
    study = await submit(store, make_plan(1, S("a")))
    worker = await worker_of(store)
    (claim,) = await worker.claim()
    await worker.settle(claim, OutcomeRun(1, "failed", flags=3))
    assert await state_of(store, study) == "failed"
    events = await store.client.xrange(store.keys.named("events"))
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


async def test_purge_without_any_worker_takes_every_key_of_a_wide_study(store: Store) -> None:
    study = await submit(store, make_plan(9, S("a", rows=900), S("b", rows=900, after=("a",))))
    assert await store.purge(study)
    assert [key for key in await store.client.keys("*") if study.encode() in key] == []
    assert await store.client.exists(store.keys.named("todo"), store.keys.named("queue:q")) == 0


async def test_commit_that_comes_again_after_a_purge_revives_nothing(store: Store) -> None:
    # Given a commit whose answer was lost, and a purge that is not done with the study's keys
    plan = make_plan(9, S("a", rows=900))
    study = await submit(store, plan)
    fields = Staged(await store.client.hlen(store.keys.plan(study)), 0)
    await store._run("purge", study)
    assert await store.client.exists(store.keys.plan(study))
    with pytest.raises(NotFoundError):
        await store.commit(study, fields, ["name", "test"])
    worker = await worker_of(store)
    while await store.client.exists(store.keys.named("todo")):
        assert await worker.claim() == []
    assert await store.client.exists(store.keys.plan(study), store.keys.study(study)) == 0


@pytest.mark.parametrize("size", [1_048_576, 2_097_152, 2_097_153])
async def test_borders_of_chunks(store: Store, size: int) -> None:
    # Given claims that touch and cross the border, settled from behind
    study = await submit(store, make_plan(size, S("a", options={"chunk": 1_048_575}), S("b", after=("a",), queue="r")))
    worker = await worker_of(store, slots=64)
    claims = await worker.claim()
    for claim in reversed(claims):
        await worker.settle(claim, OutcomeRun(claim.hi - claim.lo, "finished"))
    assert await step_counts(store, study, 0) == {"finished": size}
    assert await store.client.keys(f"{store.keys.study(study)}:done:*") == []
    # I expect one range for the child, whatever the order
    entries = await store.client.xrange(store.keys.stream("r", study, 0))
    assert [fields[b"t"] for _, fields in entries] == [f"1 0 {size} 0 0 0".encode()]


async def test_retries_and_losses_of_a_study_that_stops_are_dropped(store: Store) -> None:
    study = await submit(store, make_plan(4, S("a", options={"chunk": 1, "retry_delay_s": 60.0})))
    worker = await worker_of(store, slots=2)
    first, second = await worker.claim()
    await worker.settle(first, OutcomeRun(1, "retry"))
    assert (await store.cancel(study)).running == 1
    await store.hand_back("w", second, second.lo)
    assert await state_of(store, study) == "cancelled"
    assert await store.client.exists(store.keys.named("later"), f"{store.keys.study(study)}:later") == 0


@pytest.mark.parametrize(("most", "failing", "state"), [(2, 2, "finished"), (2, 3, "failed"), (0, 1, "failed")])
async def test_more_failures_than_allowed_stop_the_study(store: Store, most: int, failing: int, state: str) -> None:
    study = await submit(store, make_plan(10, S("a", options={"chunk": 1, "max_fails": most})))
    worker = await worker_of(store, slots=1)
    await worker.drain(lambda c: [OutcomeRun(1, "failed" if c.lo < failing else "finished")])
    assert await state_of(store, study) == state
    counts = await step_counts(store, study, 0)
    assert counts["failed"] == failing
    assert counts.get("finished", 0) == (10 - failing if state == "finished" else 0)


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


@pytest.mark.parametrize("seed", range(4))
async def test_samples_of_an_earlier_run_are_settled_without_being_claimed(store: Store, seed: int) -> None:
    # Given a chain with a diamond, a funnel, and samples of which a random part has ended, some of it badly
    random = np.random.default_rng(seed)
    steps = (S("a"), S("b", after=("a",)), S("c", after=("a", "b")), S("f", False, after=("c*",)), S("d", after=("f",)))
    plan = make_plan(300, *steps)
    sizes = [plan.size(plan.steps[node.step]) for node in plan.nodes]
    fates = [random.choice([0, 0, 2, 2, 2, 3, 4], size).astype(np.uint8) for size in sizes]
    # What is behind a blocking sample was skipped then, of which no journal knows
    fates[1][fates[0] == 4] = 0
    fates[2][(fates[0] == 4) | (fates[1] == 4)] = 0
    again = with_downstream(plan, [own < 2 for own in fates])
    remaining = without(fates, again)
    # When it is queued with that past, and run to its end
    study = await submit(store, plan, past=past_of(remaining))
    worker = await worker_of(store)
    await worker.drain()
    # I expect what had not ended to have run, or to be skipped behind a blocking sample; and each sample counted once
    assert await state_of(store, study) == "finished"
    for node, own in enumerate(remaining):
        ran = {i for (_, n, i) in worker.settled if n == node}
        counts = await step_counts(store, study, node)
        assert ran <= {int(i) for i in np.flatnonzero(own == 0)}
        assert sum(counts.values()) == len(own)
        assert counts.get("finished", 0) == len(ran) + int((own == 2).sum())
        assert counts.get("skipped", 0) + len(ran) == int((own == 0).sum())
    assert set(worker.settled.values()) <= {1}
    assert [key for key in await store.client.keys("*") if b":past" in key] == []


async def test_run_that_has_not_ended_is_not_replaced(store: Store) -> None:
    plan = make_plan(5, S("a"))
    first = await submit(store, plan)
    staged = await store.submit(f"{first}.2", plan, SEAL)
    with pytest.raises(UsageError):
        await store.commit(f"{first}.2", staged, ["name", "test"], replaces=first)
    assert await state_of(store, f"{first}.2") == "gone"
    await (await worker_of(store)).drain()
    facts = ["name", "test", "root", first, "nodes_left", 1, "step_count", 1, "walltimes", "[0]"]
    await store.commit(f"{first}.2", staged, facts, replaces=first)
    assert (await state_of(store, first), await state_of(store, f"{first}.2")) == ("gone", "running")


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


async def test_only_studies_that_have_ended_are_forgotten(store: Store) -> None:
    study = await submit(store, make_plan(3, S("a")))
    assert await store.forget(study) == "busy"
    await (await worker_of(store)).drain()
    assert [await store.forget(study), await store.forget(study)] == ["ok", "gone"]
    assert [key for key in await store.client.keys("*") if study.encode() in key] == []


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
