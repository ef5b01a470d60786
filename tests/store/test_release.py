"""What settled samples make ready: children, funnels, barriers, in whatever order and size."""

from __future__ import annotations

import numpy as np
import pytest

from mrun.engine.records import OutcomeRun
from mrun.engine.store.store import Store
from mrun.engine.workspace.downstream import with_downstream
from mrun.engine.workspace.history import past_of, without
from tests.store.plans import S, make_plan, state_of, step_counts, submit, worker_of


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


async def test_many_one_sample_settles_leave_one_entry_for_the_child(store: Store) -> None:
    study = await submit(store, make_plan(2000, S("a", options={"chunk": 1}), S("b", after=("a",), queue="nobody")))
    worker = await worker_of(store, slots=64)
    await worker.drain()
    assert await store.client.xlen(store.keys.stream("nobody", study, 0)) == 1
    assert await step_counts(store, study, 1) == {"ready": 2000}


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
    assert [fields[b"t"] for _, fields in entries] == [f"1 1 0 {size} 0 0 0".encode()]


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
