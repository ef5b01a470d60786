"""Samples that are added to a study while it runs are settled once each, and what waits for all waits for them, too."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from mrun.engine.plan.model import Plan
from mrun.engine.records import OutcomeRun
from mrun.engine.store.store import Store
from mrun.engine.studies.enqueue import step_facts
from mrun.engine.workspace.history import past_of
from tests.store.plans import SEAL, IdleWorker, S, larger, make_plan, state_of, step_counts, submit, worker_of


async def grow(store: Store, study: str, plan: Plan) -> str:
    return await store.grow(study, plan, SEAL, msgspec.json.encode(step_facts(plan)))


async def settle_all(worker: IdleWorker, claims) -> None:
    for claim in claims:
        await worker.settle(claim, OutcomeRun(claim.hi - claim.lo, "finished"))


@pytest.mark.parametrize("settled", [0, 1, 7, 10])
async def test_added_samples_join_a_chain_and_hold_back_its_funnel(store: Store, settled: int) -> None:
    # Given a chain of which some samples of the first step are settled, and some are claimed
    plan = make_plan(10, S("a", queue="a"), S("b", queue="b", after=("a",)), S("f", False, queue="f", after=("b",)))
    study = await submit(store, plan)
    a, b, f = [await worker_of(store, q, (q,)) for q in "abf"]
    while len(a.settled) < settled:
        await settle_all(a, await a.claim(1))
    held = await a.claim(1) if settled < 10 else []
    # When five are added
    plan = larger(plan, 5)
    assert await grow(store, study, plan) == "grown"
    # A repetition, as after a lost reply, changes nothing
    assert await grow(store, study, plan) == "grown"
    await settle_all(a, held)
    for claim in await a.drain():
        assert claim.edition == 1
    assert await f.claim() == []
    await b.drain()
    await f.drain()
    # I expect every sample of each step once, and the funnel last
    assert sorted(a.settled) == [(study, 0, i) for i in range(15)]
    assert sorted(b.settled) == [(study, 1, i) for i in range(15)]
    assert set((a.settled + b.settled + f.settled).values()) == {1}
    assert await state_of(store, study) == "finished"
    assert await step_counts(store, study, 1) == {"finished": 15}
    assert await grow(store, study, larger(plan, 5)) == "ended"
    assert await grow(store, "nosuch", plan) == "gone"


async def test_step_that_was_complete_and_that_nothing_waits_for_is_opened_again(store: Store) -> None:
    # Given two leaves; all of one is settled, and half of the other
    plan = make_plan(10, S("a", queue="a"), S("b", queue="b"))
    study = await submit(store, plan)
    a, b = [await worker_of(store, q, (q,)) for q in "ab"]
    await a.drain()
    await settle_all(b, await b.claim(1))
    plan = larger(plan, 3)
    assert await grow(store, study, plan) == "grown"
    await b.drain()
    assert await state_of(store, study) == "running"
    await a.drain()
    assert sorted(a.settled) == [(study, 0, i) for i in range(13)]
    assert set((a.settled + b.settled).values()) == {1}
    assert await state_of(store, study) == "finished"


@pytest.mark.parametrize("kind", ["a", "a*"])
async def test_study_whose_funnel_has_begun_takes_no_more(store: Store, kind: str) -> None:
    plan = make_plan(10, S("a", queue="a"), S("f", False, queue="f", after=(kind,)))
    study = await submit(store, plan)
    a, f = [await worker_of(store, q, (q,)) for q in "af"]
    await a.drain()
    assert await grow(store, study, larger(plan, 3)) == "passed"
    await f.drain()
    assert await state_of(store, study) == "finished"
    assert len(a.settled) == 10


async def test_two_who_add_at_the_same_time_do_not_lose_samples(store: Store) -> None:
    plan = make_plan(10, S("a"))
    study = await submit(store, plan)
    first, second = larger(plan, 3), larger(plan, 4)
    assert await grow(store, study, first) == "grown"
    # The second began from the same plan, and its edition is taken: it is the first's, and says so by its table
    assert await grow(store, study, larger(first, 4, 5)) == "stale"
    worker = await worker_of(store)
    await worker.drain()
    assert len(worker.settled) == 13
    assert second.samples.edition == 1


async def test_who_comes_second_with_the_same_edition_is_not_told_that_its_samples_were_added(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two who add to the same plan, the second of whom lays down its parts while the first one does
    plan = make_plan(3, S("a"))
    study = await submit(store, plan)
    first, second = larger(plan, 2), larger(plan, 4)
    real = store.run
    answers: list[Any] = []

    async def run(move: str, *words):
        if move == "grow" and not answers:
            answers.append("")
            answers[0] = await grow(store, study, second)
        return await real(move, *words)

    monkeypatch.setattr(store, "run", run)
    answers.append(await grow(store, study, first))
    # I expect that one of them is told to begin anew, and that the plan is the other's
    assert answers == ["grown", "stale"]
    await (await worker_of(store, "w")).drain()
    assert await step_counts(store, study, 0) == {"finished": 7}


async def test_nodes_of_many_rows_grow_in_pieces(store: Store) -> None:
    plan = make_plan(3, S("a", rows=700, queue="a"), S("f", False, queue="f", after=("a*",)))
    study = await submit(store, plan)
    a, f = await worker_of(store, "a", ("a",), 64), await worker_of(store, "f", ("f",))
    await settle_all(a, await a.claim(64))
    plan = larger(plan, 2)
    assert await grow(store, study, plan) == "grown"
    while len(a.settled) < 700 * 5:
        assert await f.claim() == []
        await settle_all(a, await a.claim(64))
    await f.drain()
    assert await state_of(store, study) == "finished"
    assert set(a.settled.values()) == {1}


async def test_child_of_two_parents_gets_added_samples_when_both_are_settled(store: Store) -> None:
    plan = make_plan(6, S("a", queue="a"), S("b", queue="b"), S("c", queue="c", after=("a", "b")))
    study = await submit(store, plan)
    a, b, c = [await worker_of(store, q, (q,)) for q in "abc"]
    # Given one parent complete, so that its bitmap is gone, and the other half way
    await a.drain()
    for _ in range(3):
        await settle_all(b, await b.claim(1))
    await settle_all(c, await c.claim(1))
    plan = larger(larger(plan, 2), 4)
    assert await grow(store, study, replace(plan, samples=larger(make_plan(6), 2).samples)) == "grown"
    assert await grow(store, study, plan) == "grown"
    for _ in range(4):
        await b.drain()
        await c.drain()
        await a.drain()
    assert [sorted(w.settled) for w in (a, b, c)] == [[(study, n, i) for i in range(12)] for n in range(3)]
    assert set((a.settled + b.settled + c.settled).values()) == {1}
    assert await state_of(store, study) == "finished"


async def test_doomed_step_skips_added_samples_too(store: Store) -> None:
    # Given a step whose parent of one sample is blocking, and another that keeps the study alive
    plan = make_plan(5, S("g", False, queue="g"), S("b", queue="b", after=("g",)), S("k", queue="k"))
    study = await submit(store, plan)
    g, k = await worker_of(store, "g", ("g",)), await worker_of(store, "k", ("k",))
    await g.drain(lambda claim: [OutcomeRun(1, "failed", 0, 1)])
    assert await step_counts(store, study, 1) == {"skipped": 5}
    assert await grow(store, study, larger(plan, 4)) == "grown"
    await k.drain()
    assert await step_counts(store, study, 1) == {"skipped": 9}
    assert await state_of(store, study) == "finished"


async def test_later_run_grows_like_a_first_one(store: Store) -> None:
    # Given a run in which all of a node's samples but the third are done already
    plan = make_plan(8, S("a", queue="a"), S("f", False, queue="f", after=("a",)))
    fates = [np.full(8, 2, np.uint8), np.zeros(1, np.uint8)]
    fates[0][3] = 0
    study = await submit(store, plan, past_of(fates))
    a, f = [await worker_of(store, q, (q,)) for q in "af"]
    assert await grow(store, study, larger(plan, 2)) == "grown"
    await a.drain()
    assert sorted(i for _, _, i in a.settled) == [3, 8, 9]
    await f.drain()
    assert await state_of(store, study) == "finished"
    assert (await step_counts(store, study, 0))["finished"] == 10
