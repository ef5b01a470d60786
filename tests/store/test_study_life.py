"""A study from what is staged to what is left of it: commit, cancel, purge, forget, and a later run."""

from __future__ import annotations

from typing import Any

import pytest

from mrun.engine.errors import NotFoundError, UsageError
from mrun.engine.records import OutcomeRun
from mrun.engine.store.store import Staged, Store
from tests.store.plans import SEAL, S, make_plan, state_of, submit, worker_of


async def test_ended_study_leaves_only_its_counters_and_they_expire(store: Store) -> None:
    study = await submit(store, make_plan(50, S("a"), S("f", False, after=("a",))))
    worker = await worker_of(store)
    await worker.drain()
    await store.leave("w")
    keys = {key.decode() for key in await store.client.keys(f"*{study}*")}
    assert keys == {store.keys.study(study)}
    for key in keys:
        assert await store.client.ttl(key) > 0


async def test_purged_study_leaves_no_key(store: Store) -> None:
    study = await submit(store, make_plan(3_000_000, S("a"), S("b", after=("a",))))
    worker = await worker_of(store)
    claims = await worker.claim()
    assert await store.purge(study)
    assert await worker.settle(claims[0], OutcomeRun(1, "finished")) == "gone"
    assert (await worker.beat()).lost == tuple(str(c.number) for c in claims[1:])
    worker.claims.clear()
    await worker.beat()
    await store.leave("w")
    assert [key for key in await store.client.keys("*") if study.encode() in key] == []
    assert not await store.purge(study)


async def test_cancel_stops_claims_at_once_and_ends_when_the_last_running_sample_does(store: Store) -> None:
    study = await submit(store, make_plan(100_000_000, S("a"), S("f", False, after=("a",))))
    worker = await worker_of(store)
    claims = await worker.claim()
    answer = await store.cancel(study)
    assert (answer.status, answer.running) == ("ok", 2)
    assert await worker.claim() == []
    assert set((await worker.beat()).kill) == {str(c.number) for c in claims}
    for claim in claims:
        assert await worker.settle(claim, OutcomeRun(1, "cancelled", flags=1)) == "stopping"
    assert await state_of(store, study) == "cancelled"
    assert (await store.cancel(study)).status == "ended"
    assert (await store.cancel("nosuch")).status == "gone"


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
    assert await store.client.zcard(store.keys.studies) == 0


async def test_purge_without_any_worker_takes_every_key_of_a_wide_study(store: Store) -> None:
    study = await submit(store, make_plan(9, S("a", rows=900), S("b", rows=900, after=("a",))))
    assert await store.purge(study)
    assert [key for key in await store.client.keys("*") if study.encode() in key] == []
    assert await store.client.exists(store.keys.todo, store.keys.queue("q")) == 0


async def test_commit_that_comes_again_after_a_purge_revives_nothing(store: Store) -> None:
    # Given a commit whose answer was lost, and a purge that is not done with the study's keys
    plan = make_plan(9, S("a", rows=900))
    study = await submit(store, plan)
    fields = Staged(await store.client.hlen(store.keys.plan(study)), 0)
    await store.run("purge", study)
    assert await store.client.exists(store.keys.plan(study))
    with pytest.raises(NotFoundError):
        await store.commit(study, fields, ["name", "test"])
    worker = await worker_of(store)
    while await store.client.exists(store.keys.todo):
        assert await worker.claim() == []
    assert await store.client.exists(store.keys.plan(study), store.keys.study(study)) == 0


async def test_run_that_has_not_ended_is_not_replaced(store: Store) -> None:
    plan = make_plan(5, S("a"))
    first = await submit(store, plan)
    staged = await store.submit(f"{first}.2", plan, SEAL)
    with pytest.raises(UsageError):
        await store.commit(f"{first}.2", staged, ["name", "test"], replaces=first)
    assert await state_of(store, f"{first}.2") == "gone"
    await (await worker_of(store)).drain()
    facts: list[Any] = ["name", "test", "root", first, "instances_left", 1, "step_count", 1, "walltimes", "[0]"]
    await store.commit(f"{first}.2", staged, facts, replaces=first)
    assert (await state_of(store, first), await state_of(store, f"{first}.2")) == ("gone", "running")


async def test_only_studies_that_have_ended_are_forgotten(store: Store) -> None:
    study = await submit(store, make_plan(3, S("a")))
    assert await store.forget(study) == "busy"
    await (await worker_of(store)).drain()
    assert [await store.forget(study), await store.forget(study)] == ["ok", "gone"]
    assert [key for key in await store.client.keys("*") if study.encode() in key] == []
