"""What the moves do on a server that is full, and with keys that somebody damaged: they answer, and raise nothing."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from mrun.engine.errors import BrokerError, MrunError
from mrun.engine.records import Claim, OutcomeRun, Settlement
from mrun.engine.store.store import Store
from tests.store.plans import SEAL, IdleWorker, S, make_plan, state_of, step_counts, submit
from tests.store.test_leases import lose, swept_until_removed, worker_of


@contextlib.asynccontextmanager
async def full_server(store: Store) -> AsyncIterator[None]:
    """Every write that is not allowed beyond the memory's limit is refused."""
    await store.client.config_set("maxmemory-policy", "noeviction")
    await store.client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        await store.client.config_set("maxmemory", 0)


def all_of(claim: Claim, state: str = "finished") -> OutcomeRun:
    return OutcomeRun(claim.hi - claim.lo, state)


async def keys_of(store: Store, study: str) -> list[str]:
    return sorted(key.decode() for key in await store.client.keys(f"{store.keys.root}*{study}*"))


# ------------------------------------------------------------------------------------------------- a full server


async def test_full_server_lets_what_runs_come_to_its_end(store: Store) -> None:
    # Given studies with work in every state, and scripts that the server does not know yet
    plan = make_plan(40, S("a", options={"chunk": 4}), S("b", after=("a",)), S("f", False, after=("b",)))
    study = await submit(store, plan)
    purged, cancelled = [await submit(store, make_plan(9, S("a", queue="r", options={"chunk": 1}))) for _ in range(2)]
    worker, dead, other = [await worker_of(store, name) for name in ("worker", "dead", "other")]
    (first,), (second,), (_,) = await worker.claim(), await worker.claim(), await dead.claim()
    elsewhere = IdleWorker(store, "elsewhere", ("r",), slots=4)
    await elsewhere.beat()
    await elsewhere.claim()
    await store.client.script_flush()
    await store.reclaim("other")
    await store.client.zadd(store.keys.workers, {"dead": 1})
    async with full_server(store):
        # I expect that everything that a worker does goes on, and that nothing is added
        assert await worker.settle(first, OutcomeRun(2, "finished"), OutcomeRun(2, "retry")) == "ok"
        assert await store.hand_back("worker", second, second.lo + 1)
        assert await worker.settle(second, OutcomeRun(1, "failed")) == "ok"
        worker.claims.clear()
        await worker.beat()
        await swept_until_removed(store, "dead")
        assert (await store.cancel(cancelled)).status == "ok"
        assert await store.purge(purged)
        await elsewhere.beat()
        await store.leave("elsewhere")
        assert await store.stop(["other"]) == 1
        with pytest.raises(BrokerError, match="out of memory"):
            await submit(store, make_plan(5, S("a")))
        while await state_of(store, study) == "running":
            await worker.drain()
            await worker.beat()
    assert await state_of(store, study) == "finished"
    assert await step_counts(store, study, 0) == {"finished": 39, "failed": 1}
    assert await state_of(store, cancelled) == "cancelled"
    assert await keys_of(store, purged) == []
    assert await store.client.zcard(store.keys.studies) == 2
    assert (await other.beat()).request == "drain"


async def test_full_server_refuses_a_commit_and_shows_nothing_of_the_study(store: Store) -> None:
    # Given a study that was laid down before the server was full
    count = await store.submit("half", make_plan(5, S("a")), SEAL)
    async with full_server(store):
        with pytest.raises(BrokerError, match="out of memory"):
            await store.commit("half", count, ["name", "test"])
    # I expect that nobody sees it, and that it expires
    assert await keys_of(store, "half") == [store.keys.plan("half")]
    assert await store.client.ttl(store.keys.plan("half")) > 0
    assert await store.client.exists(store.keys.studies) == 0
    assert await (await worker_of(store, "worker")).claim() == []


# -------------------------------------------------------------------------------------------------- damaged keys


async def test_lost_stream_fails_its_study_and_no_other(store: Store) -> None:
    lost = await submit(store, make_plan(4, S("a", options={"chunk": 1})))
    good = await submit(store, make_plan(4, S("a", options={"chunk": 1})))
    worker = await worker_of(store, "worker", slots=2)
    claims = await worker.claim()
    assert {claim.study for claim in claims} == {lost}
    # When somebody deletes the stream with what nobody has claimed
    await store.client.delete(store.keys.stream("q", lost, 0))
    await worker.drain()
    for claim in claims:
        await worker.settle(claim, all_of(claim))
    # I expect that the study says why it can't come to its end, and that the other one does
    assert await state_of(store, lost) == "failed"
    assert b"lost" in await store.client.hget(store.keys.study(lost), "why")
    assert await state_of(store, good) == "finished"


async def test_stream_that_is_lost_and_at_once_made_anew_fails_its_study(store: Store) -> None:
    # Given a claim of a sample whose child goes to the same stream
    study = await submit(store, make_plan(4, S("a", options={"chunk": 1}), S("b", after=("a",))))
    worker = await worker_of(store, "worker")
    (claim,) = await worker.claim()
    # When the stream is deleted, and there again with the child before anybody looks
    await store.client.delete(store.keys.stream("q", study, 0))
    assert await worker.settle(claim, all_of(claim)) in ("ok", "stopping")
    await worker.drain()
    await store.reclaim("worker")
    # I expect no study that waits for ever for what is lost
    assert await state_of(store, study) == "failed"
    assert b"lost" in await store.client.hget(store.keys.study(study), "why")
    assert await store.client.exists(store.keys.stream("q", study, 0)) == 0


@pytest.mark.parametrize("is_held", [False, True])
async def test_lost_plan_fails_its_study(store: Store, is_held: bool) -> None:
    study = await submit(store, make_plan(9, S("a", options={"chunk": 2}), S("b", after=("a",))))
    worker = await worker_of(store, "worker")
    claims = await worker.claim() if is_held else []
    await store.client.delete(store.keys.plan(study))
    assert await worker.claim() == []
    for claim in claims:
        assert await worker.settle(claim, all_of(claim)) == "gone"
    await worker.beat()
    assert await state_of(store, study) == "failed"
    assert await store.client.exists(store.keys.todo, store.keys.queue("q")) == 0
    # Its nodes are not known any more; its counters end as always
    assert await store.client.ttl(store.keys.study(study)) > 0
    assert await worker.claim() == []


async def test_lost_plan_does_not_stop_a_release_that_was_left_over(store: Store) -> None:
    # Given work on todo, for children of a plan that is lost
    study = await submit(store, make_plan(3, S("a", options={"chunk": 3}), S("b", rows=700, after=("a",))))
    worker = await worker_of(store, "worker")
    (claim,) = await worker.claim()
    await worker.settle(claim, all_of(claim))
    assert await store.client.exists(store.keys.todo)
    await store.client.delete(store.keys.plan(study))
    await worker.beat()
    assert await state_of(store, study) == "failed"
    for _ in range(20):
        await worker.beat()
    assert await store.client.exists(store.keys.todo) == 0


@pytest.mark.parametrize("how", ["settle", "hand back", "beat", "reclaim", "leave"])
@pytest.mark.parametrize("garbage", [b"\xc1", b"\x93\x01\x02\x03", b"text", b""])
async def test_damaged_claim_record_is_no_claim_and_fails_its_study(store: Store, garbage: bytes, how: str) -> None:
    # Given a worker with claims of two studies, one of which somebody damages
    study, good = [await submit(store, make_plan(3, S("a", options={"chunk": 1}))) for _ in range(2)]
    worker, other = await worker_of(store, "worker", slots=4), await worker_of(store, "other")
    claims = await worker.claim()
    assert {claim.study for claim in claims} == {study, good}
    claim = next(claim for claim in claims if claim.study == study)
    await store.client.hset(store.keys.worker_claims("worker"), claim.text, garbage)
    # When that is noticed
    if how == "settle":
        assert await worker.settle(claim, all_of(claim)) == "gone"
        assert not await store.hand_back("worker", claim, claim.lo)
    elif how == "hand back":
        assert not await store.hand_back("worker", claim, claim.lo)
    elif how == "beat":
        del worker.claims[claim.number]
        assert (await worker.beat()).status == "ok"
    else:
        await (lose(store, "worker") if how == "reclaim" else store.leave("worker"))
    # I expect its study to say that it can't come to its end, and the other one to do so
    assert await state_of(store, study) == "failed"
    assert b"lost" in await store.client.hget(store.keys.study(study), "why")
    for one in (
        [claim for claim in worker.claims.values() if claim.study == good] if how not in ("reclaim", "leave") else []
    ):
        assert await worker.settle(one, all_of(one)) == "ok"
    for one in [claim for claim in worker.claims.values() if claim.study == study]:
        assert await worker.settle(one, all_of(one)) in ("gone", "lost")
    await other.drain()
    assert await step_counts(store, good, 0) == {"finished": 3}
    assert await store.client.hgetall(store.keys.worker_claims("worker")) == {}


@pytest.mark.parametrize("text", ["garbage", "0 5", "99 0 0 1 0 0 0"])
async def test_entry_that_does_not_decode_fails_its_study(store: Store, text: str) -> None:
    study = await submit(store, make_plan(9, S("a", options={"chunk": 9})))
    good = await submit(store, make_plan(2, S("a", options={"chunk": 1})))
    stream = store.keys.stream("q", study, 0)
    await store.client.xtrim(stream, maxlen=0)
    await store.client.xadd(stream, {"t": text})
    worker = await worker_of(store, "worker", slots=3)
    await worker.drain()
    assert await state_of(store, study) == "failed"
    assert await state_of(store, good) == "finished"


async def test_worker_without_its_hash_goes_on(store: Store) -> None:
    study = await submit(store, make_plan(4, S("a", options={"chunk": 1})))
    worker = await worker_of(store, "worker")
    (claim,) = await worker.claim()
    await store.client.delete(store.keys.worker("worker"))
    assert await worker.settle(claim, all_of(claim)) == "ok"
    assert (await worker.beat()).status == "ok"
    await worker.drain()
    assert await state_of(store, study) == "finished"
    await store.leave("worker")
    assert await store.client.keys(f"{store.keys.root}worker:*") == []


async def test_worker_whose_lease_was_deleted_gets_another_with_its_next_request(store: Store) -> None:
    study = await submit(store, make_plan(4, S("a", options={"chunk": 4})))
    worker, other = await worker_of(store, "worker"), await worker_of(store, "other")
    (claim,) = await worker.claim()
    await store.client.zrem(store.keys.workers, "worker")
    assert await worker.claim() == []
    assert await store.client.zscore(store.keys.workers, "worker") is not None
    assert (await worker.beat()).lost == ()
    assert await worker.settle(claim, all_of(claim)) == "ok"
    await other.drain()
    assert await state_of(store, study) == "finished"
    assert await store.client.hget(store.keys.slots, "q") == b"2"


@pytest.mark.parametrize("garbage", [b"\xc1", b"x", msgspec.msgpack.encode(["nosuch", 1])])
async def test_damaged_todo_fails_its_study(store: Store, garbage: bytes) -> None:
    study = await submit(store, make_plan(2, S("a")))
    await store.client.rpush(f"{store.keys.study(study)}:todo", garbage)
    await store.client.zadd(store.keys.todo, {study: 1, "nosuch": 2})
    worker = await worker_of(store, "worker")
    while await store.client.exists(store.keys.todo):
        await worker.drain()
    assert await state_of(store, study) == "failed"


async def test_damaged_retry_fails_its_study(store: Store) -> None:
    study = await submit(store, make_plan(2, S("a", options={"chunk": 1, "retry_delay_s": 0.0})))
    worker = await worker_of(store, "worker")
    (claim,) = await worker.claim()
    await worker.settle(claim, all_of(claim, "retry"))
    await store.client.zadd(store.keys.retries(study), {"garbage": 1})
    assert await worker.claim() == []
    assert await state_of(store, study) == "failed"
    assert await store.client.exists(store.keys.later) == 0


async def test_damaged_ranges_of_an_instance_fail_its_study(store: Store) -> None:
    study = await submit(store, make_plan(6, S("a", options={"chunk": 3})))
    worker = await worker_of(store, "worker")
    (claim,) = await worker.claim()
    opened = store.keys.ranges(study, 0)
    for field in await store.client.hkeys(opened):
        await store.client.hset(opened, field, "garbage")
    assert not await store.hand_back("worker", claim, claim.lo)
    assert await state_of(store, study) == "failed"


async def test_lost_bitmap_raises_nowhere(store: Store) -> None:
    study = await submit(store, make_plan(9, S("a", options={"chunk": 1}), S("b", queue="r"), S("c", after=("a", "b"))))
    worker = await worker_of(store, "worker")
    (claim,) = await worker.claim()
    await worker.settle(claim, all_of(claim))
    await store.client.delete(store.keys.bits(study, "done", 0, 0))
    await worker.drain()
    other = IdleWorker(store, "other", ("r",))
    await other.beat()
    await other.drain()
    await worker.drain()
    assert await worker.claim() == []


async def test_settlement_that_makes_no_sense_is_refused_before_anything_is_written(store: Store) -> None:
    study = await submit(store, make_plan(4, S("a", options={"chunk": 4})))
    worker = await worker_of(store, "worker")
    (claim,) = await worker.claim()
    for runs, elapsed_ms in (
        ((OutcomeRun(3, "finished"),), 1.0),
        ((OutcomeRun(4, "finished"), OutcomeRun(0, "failed")), 1.0),
        ((OutcomeRun(4, "finished"),), float("nan")),
        ((OutcomeRun(4, "finished"),), float("inf")),
    ):
        with pytest.raises(MrunError, match="settle"):
            await store.settle("worker", [Settlement(claim.text, 0, 4, runs, elapsed_ms)])
    assert await step_counts(store, study, 0) == {"running": 4}
    assert await worker.settle(claim, all_of(claim)) == "ok"
    assert await state_of(store, study) == "finished"
