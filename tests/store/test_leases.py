"""Leases: who is believed alive, and what becomes of the samples of who is not."""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec
import pytest
import redis.asyncio

from mrun.engine.records import MAY_HAVE_STARTED, Claim, ClaimRequest, OutcomeRun, ReclaimAnswer
from mrun.engine.store.schema import StepRow
from mrun.engine.store.store import Store
from tests.conftest import TestServer
from tests.store.plans import IdleWorker, S, make_plan, state_of, step_counts, submit

#: A lease that ends soon, and one that does not end within a test.
SHORT_S, LONG_S = 0.2, 60.0


async def worker_of(store: Store, name: str, lease_s: float = LONG_S, slots: int = 1, **words: Any) -> IdleWorker:
    worker = IdleWorker(store, name, slots=slots)
    await worker.beat(lease_s, **words)
    return worker


async def now_ms(store: Store) -> int:
    now = await store.client.time()
    return now[0] * 1000 + now[1] // 1000


async def eventually(condition: Callable[[], Awaitable[object]], what: str, timeout_s: float = 20) -> object:
    """Ask until it is so."""
    deadline = time.monotonic() + timeout_s
    while not (value := await condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        await anyio.sleep(0.01)
    return value


async def swept_until_removed(store: Store, *names: str, by: str = "sweeper") -> list[ReclaimAnswer]:
    """Sweep, as the tender does, until these workers are gone."""
    answers: list[ReclaimAnswer] = []

    async def are_gone() -> bool:
        answers.append(await store.reclaim(by))
        return set(names) <= {name for answer in answers for name in answer.removed_workers}

    await eventually(are_gone, f"{names} are reclaimed")
    return answers


async def lose(store: Store, *names: str, is_alone: bool = True) -> None:
    """End the leases of these workers now, while somebody sweeps: no outage. `is_alone`: nobody else died lately."""
    if is_alone:
        await store.client.delete(store.keys.deaths)
    await store.client.zadd(store.keys.workers, dict.fromkeys(names, 1))
    await store.client.hset(store.keys.clock, mapping={"swept_ms": await now_ms(store), "is_set_back": 0})
    await swept_until_removed(store, *names)


def all_of(claim: Claim, state: str = "finished") -> OutcomeRun:
    return OutcomeRun(claim.hi - claim.lo, state)


async def test_expired_lease_is_taken_over_by_another_worker(store: Store) -> None:
    # Given a worker that claimed everything there is, and is not heard of any more
    study = await submit(store, make_plan(5, S("a", options={"chunk": 5})))
    other = await worker_of(store, "other")
    await store.reclaim("other")
    dead = await worker_of(store, "dead", SHORT_S)
    (claim,) = await dead.claim()
    assert await other.claim() == []
    # When its lease is over
    began = time.monotonic()
    await swept_until_removed(store, "dead", by="other")
    # I expect that the other one gets it, not later than promised
    assert time.monotonic() - began < 1.5 * SHORT_S + 2
    await other.drain()
    assert sorted(other.settled) == [(study, 0, i) for i in range(5)]
    assert await state_of(store, study) == "finished"
    assert not dead.settled
    assert claim.hi == 5


async def test_beating_worker_keeps_its_claim_for_many_leases(store: Store) -> None:
    study = await submit(store, make_plan(1, S("a")))
    other, worker = await worker_of(store, "other"), await worker_of(store, "worker", SHORT_S)
    (claim,) = await worker.claim()
    end_ms = await now_ms(store) + 5000 * SHORT_S

    async def is_over() -> bool:
        assert (await worker.beat(SHORT_S)).lost == ()
        assert (await store.reclaim("other")).removed_workers == ()
        return await now_ms(store) > end_ms

    await eventually(is_over, "five leases have passed")
    assert await other.claim() == []
    assert await worker.settle(claim, all_of(claim)) == "ok"
    assert await state_of(store, study) == "finished"


async def test_stopped_worker_that_comes_back_changes_nothing(store: Store) -> None:
    # Given a worker that was stopped, and whose samples another one has
    study = await submit(store, make_plan(4, S("a", options={"chunk": 4})))
    stopped, other = await worker_of(store, "stopped"), await worker_of(store, "other")
    (old,) = await stopped.claim()
    await lose(store, "stopped")
    (new,) = await other.claim()
    before = await step_counts(store, study, 0)
    # When it goes on where it was
    stopped.claims[old.number] = old
    assert await stopped.settle(old, all_of(old)) == "lost"
    assert not await store.hand_back("stopped", old, old.lo)
    stopped.claims[old.number] = old
    answer = await stopped.beat(LONG_S)
    # I expect that it hears of its loss, and that the other's claim stands
    assert answer.lost == (str(old.number),)
    assert await step_counts(store, study, 0) == before
    assert (await other.beat(LONG_S)).lost == ()
    assert await other.settle(new, all_of(new)) == "ok"
    await other.drain()
    assert await step_counts(store, study, 0) == {"finished": 4}


async def test_beat_without_facts_of_a_reclaimed_worker_is_answered_unknown(store: Store) -> None:
    await worker_of(store, "worker")
    await lose(store, "worker")
    assert (await store.beat("worker", LONG_S, [], 0)).status == "unknown"
    assert await store.client.zscore(store.keys.workers, "worker") is None
    assert (await IdleWorker(store, "worker").beat(LONG_S)).status == "ok"


async def test_lost_samples_are_claimed_one_by_one_and_die_at_max_losses(store: Store) -> None:
    # Given three samples, the second of which kills its worker
    plan = make_plan(3, S("a", options={"chunk": 3, "max_losses": 3}), S("f", False, after=("a",)))
    study = await submit(store, plan)
    worker = await worker_of(store, "w0")
    (claim,) = await worker.claim()
    assert (claim.lo, claim.hi, claim.losses) == (0, 3, 0)
    await worker.settle(claim, OutcomeRun(1, "finished"))
    await lose(store, "w0")
    losses = []
    for death in range(1, 3):
        worker = await worker_of(store, f"w{death}", slots=2)
        claims = {claim.lo: claim for claim in await worker.claim()}
        losses.append(claims[1].losses)
        # I expect one sample a claim from the first loss on
        assert all(claim.hi - claim.lo == 1 for claim in claims.values())
        if 2 in claims:
            await worker.settle(claims[2], OutcomeRun(1, "finished"))
        await lose(store, worker.name)
    # I expect that the third loss ends it, with its reason, and that what waits for it runs
    assert losses == [1, 2]
    assert await step_counts(store, study, 0) == {"finished": 2, "dead": 1}
    assert await store.client.hget(store.keys.reasons(study), "0:1") == b"lost 3 workers"
    await (await worker_of(store, "last")).drain()
    assert await step_counts(store, study, 1) == {"finished": 1}
    assert await state_of(store, study) == "finished"


async def test_max_losses_of_nought_is_never(store: Store) -> None:
    study = await submit(store, make_plan(1, S("a", options={"max_losses": 0})))
    for death in range(5):
        worker = await worker_of(store, f"w{death}")
        assert [claim.losses for claim in await worker.claim()] == [death]
        await lose(store, worker.name)
    assert await step_counts(store, study, 0) == {"ready": 1}


@pytest.mark.parametrize(("flags", "child"), [(0, {"finished": 1}), (1, {"skipped": 1}), (3, {})])
async def test_dead_sample_blocks_or_stops_as_its_step_says(store: Store, flags: int, child: dict[str, int]) -> None:
    # Given a step of which the plan says what a dead sample does
    study = await submit(store, make_plan(1, S("a", options={"max_losses": 1}), S("b", after=("a",))))
    raw = await store.client.hget(store.keys.plan(study), "step:0")
    row = msgspec.structs.replace(msgspec.msgpack.decode(raw, type=StepRow), dead_flags=flags)
    await store.client.hset(store.keys.plan(study), "step:0", msgspec.msgpack.encode(row))
    await (await worker_of(store, "w")).claim()
    await lose(store, "w")
    await (await worker_of(store, "last")).drain()
    assert await step_counts(store, study, 0) == {"dead": 1}
    assert await step_counts(store, study, 1) == child
    assert await state_of(store, study) == ("failed" if flags & 2 else "finished")


@pytest.mark.parametrize("why", ["draining", "allocation ended"])
async def test_losses_of_who_was_about_to_end_do_not_count(store: Store, why: str) -> None:
    await submit(store, make_plan(2, S("a", options={"chunk": 2, "max_losses": 1})))
    worker = await worker_of(store, "w")
    await worker.claim()
    if why == "draining":
        await worker.beat(LONG_S, is_draining=True)
    else:
        await store.client.hset(store.keys.worker("w"), "ends_at_ms", await now_ms(store) - 1)
    await lose(store, "w")
    (claim,) = await (await worker_of(store, "other")).claim()
    # The files tell whether one had been started: it is not to begin as if nothing had been.
    assert (claim.lo, claim.hi, claim.losses, claim.resume) == (0, 2, 0, MAY_HAVE_STARTED)


async def test_three_deaths_within_one_lease_do_not_count(store: Store) -> None:
    # Given three workers that a cabinet took with it
    study = await submit(store, make_plan(3, S("a", options={"chunk": 1, "max_losses": 1})))
    for name in ("x", "y", "z"):
        assert len(await (await worker_of(store, name)).claim()) == 1
    await lose(store, "x", "y", "z")
    # I expect that none of their samples is blamed
    assert await step_counts(store, study, 0) == {"ready": 3}
    (claim,) = await (await worker_of(store, "other")).claim()
    assert claim.losses == 0
    assert await store.client.pttl(store.keys.deaths) > 0


async def test_gap_without_sweeps_expires_nobody(store: Store) -> None:
    # Given workers whose leases are over, and a server that nobody swept or beat since
    study = await submit(store, make_plan(1, S("a")))
    quick, slow = await worker_of(store, "quick", 10), await worker_of(store, "slow", 60)
    await quick.claim()
    workers, now = store.keys.workers, await now_ms(store)
    await store.client.zadd(workers, {"quick": now - 20_000, "slow": now - 1})
    await store.client.hset(store.keys.clock, "swept_ms", now - 25_000)
    for name in ("quick", "slow"):
        await store.client.hset(store.keys.worker(name), "started_at_ms", now - 60_000)
    # When the first beat and sweep come
    await slow.beat(60)
    answer = await store.reclaim("slow")
    # I expect that the outage is noticed, and that who could not have beaten has a lease again
    assert (answer.is_outage, answer.removed_workers) == (1, ())
    assert await store.client.zscore(workers, "quick") > now + 5_000
    assert (await store.reclaim("slow")).is_outage == 0
    assert await step_counts(store, study, 0) == {"running": 1}


async def test_time_that_went_backwards_expires_nobody(store: Store) -> None:
    worker = await worker_of(store, "worker", 10)
    workers, now = store.keys.workers, await now_ms(store)
    await store.client.zadd(workers, {"worker": now - 1})
    await store.client.hset(store.keys.clock, "swept_ms", now + 3_600_000)
    answer = await store.reclaim("other")
    assert (answer.is_outage, answer.removed_workers) == (1, ())
    assert await store.client.zscore(workers, "worker") > now
    assert (await worker.beat(10)).status == "ok"


async def test_worker_that_comes_after_a_time_without_any_sees_no_outage(store: Store) -> None:
    await store.client.hset(store.keys.clock, "swept_ms", await now_ms(store) - 3_600_000)
    await worker_of(store, "worker")
    assert (await store.reclaim("worker")).is_outage == 0


async def test_first_sweep_of_a_server_is_no_outage(store: Store) -> None:
    await worker_of(store, "worker")
    assert (await store.reclaim("worker")).is_outage == 0


async def test_dead_tender_is_no_outage(store: Store) -> None:
    # Given a tender that does not sweep any more, and a worker that beats
    worker = await worker_of(store, "worker", 1)
    await worker_of(store, "dead", 1)
    await store.reclaim("dead")
    began = int(await store.client.hget(store.keys.clock, "swept_ms"))
    # When the gap since the last sweep is long, but the one since the last beat is not
    end_ms = await now_ms(store) + 700

    async def is_over() -> bool:
        await worker.beat(1)
        return await now_ms(store) > end_ms

    await eventually(is_over, "more than half a lease has passed")
    # I expect that nobody's lease begins anew for it
    answer = await store.reclaim("worker")
    assert answer.is_outage == 0
    assert int(await store.client.hget(store.keys.clock, "swept_ms")) > began + 600


async def test_workers_with_different_leases_do_not_rob_each_other(store: Store) -> None:
    study = await submit(store, make_plan(2, S("a", options={"chunk": 1})))
    slow, quick = await worker_of(store, "slow", LONG_S), await worker_of(store, "quick", SHORT_S)
    (claim,), (_,) = await slow.claim(), await quick.claim()
    await swept_until_removed(store, "quick")
    # I expect that only the quick one's lease was over, though a sweep comes by the quick one's measure
    assert (await slow.beat(LONG_S)).lost == ()
    assert await slow.settle(claim, all_of(claim)) == "ok"
    assert await step_counts(store, study, 0) == {"ready": 1, "finished": 1}


async def test_claims_that_never_arrived_are_put_back_without_loss(store: Store) -> None:
    # Given two claims whose answers were lost on the way, and one that arrived
    study = await submit(store, make_plan(9, S("a", options={"chunk": 3})))
    worker = await worker_of(store, "worker")
    (first,), (second,), (third,) = [await worker.claim() for _ in range(3)]
    worker.claims = {}
    # When the worker has seen the second, but lists none: the third may still be on its way
    worker.highest = second.number
    assert (await worker.beat(LONG_S)).lost == ()
    # I expect the first two back as they were, and the third its own
    assert await step_counts(store, study, 0) == {"ready": 6, "running": 3}
    assert await worker.settle(third, all_of(third)) == "ok"
    assert await worker.settle(second, all_of(second)) == "lost"
    again = await worker.drain()
    assert {claim.losses for claim in again} == {0}
    assert sorted(i for c in again for i in range(c.lo, c.hi)) == list(range(first.lo, second.hi))
    assert await state_of(store, study) == "finished"


async def test_worker_that_leaves_puts_back_and_takes_every_key_with_it(store: Store) -> None:
    study = await submit(store, make_plan(1000, S("a", options={"chunk": 1}), S("r", queue="r")))
    worker = IdleWorker(store, "worker", ("q", "r"), slots=64)
    await worker.beat(LONG_S)
    other = await worker_of(store, "other")
    while len(worker.claims) < 300:
        await worker.claim()
    # When it leaves with more claims than one call may put back
    await store.leave("worker")
    # I expect nothing of it any more, in any key, and nobody else harmed
    assert await step_counts(store, study, 0) == {"ready": 1000}
    assert await store.client.keys(f"{store.keys.worker('worker')}*") == []
    for key in (store.keys.workers, store.keys.leases):
        assert await store.client.zrange(key, 0, -1) == [b"other"]
    assert await store.client.hgetall(store.keys.slots) == {b"q": b"1"}
    assert await store.client.hget(store.keys.clock, "sweeper") is None
    (claim,) = await other.claim()
    assert claim.losses == 0


async def test_tender_that_dies_is_followed_by_another(store: Store) -> None:
    first, second = await worker_of(store, "first", 1), IdleWorker(store, "second")
    assert (await first.beat(1)).sweep_in_ms > 0
    assert (await second.beat(1)).sweep_in_ms == -1
    # When the first one is not heard of any more

    async def second_tends() -> bool:
        return (await second.beat(1)).sweep_in_ms > 0

    await eventually(second_tends, "the second worker tends")
    assert (await first.beat(1)).sweep_in_ms == -1
    assert (await store.reclaim("first")).sweep_in_ms == -1


async def test_worker_with_the_longest_lease_tends(store: Store) -> None:
    # Given a tender with a short lease, and a worker that hardly ever looks
    await store.client.delete(store.keys.queue("q"))
    quick, slow = IdleWorker(store, "quick"), IdleWorker(store, "slow")
    assert (await quick.beat(2)).sweep_in_ms > 0
    await slow.beat(2)
    await store.client.zadd(store.keys.leases, {"slow": 30_000})
    await store.client.hset(store.keys.worker("slow"), "lease_ms", 30_000)
    # When the one that hardly ever looks does so, I expect that it is told to beat, and tends from then on
    assert (await store.claim("slow", ClaimRequest(1, ("q",)))).is_untended
    assert (await slow.beat(30)).sweep_in_ms > 0
    assert (await store.reclaim("quick")).sweep_in_ms == -1
    assert (await quick.beat(2)).sweep_in_ms == -1
    # It sweeps as often as the shortest lease needs; and nobody has to look for another one.
    assert (await store.reclaim("slow")).sweep_in_ms == 250
    for worker in ("quick", "slow"):
        assert not (await store.claim(worker, ClaimRequest(1, ("q",)))).is_untended


async def test_late_copy_of_a_claim_request_of_who_was_believed_dead_claims_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker that claimed, was believed dead, and has come back with nothing
    study = await submit(store, make_plan(2, S("a", options={"chunk": 1})))
    worker = await worker_of(store, "worker")
    sent = noted(store, monkeypatch)
    await worker.claim()
    await lose(store, "worker")
    worker.claims.clear()
    await worker.beat(LONG_S)
    # When a copy of its request comes that was long on its way
    await store.run(*sent[0])
    # I expect that it claims nothing: nobody would hear of it, and it would run for ever
    assert await step_counts(store, study, 0) == {"ready": 2}
    await worker.drain()
    assert await state_of(store, study) == "finished"


async def test_late_copy_of_an_old_settle_does_not_hide_the_answer_of_the_newest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two settles of a worker, the answer of the second of which was lost
    study = await submit(store, make_plan(2, S("a", options={"chunk": 1})))
    worker = await worker_of(store, "worker", slots=2)
    first, second = await worker.claim()
    sent = noted(store, monkeypatch)
    for claim in (first, second):
        assert await worker.settle(claim, all_of(claim)) == "ok"
    # When a copy of the first comes late, and the second is sent again
    await store.run(*sent[0])
    answer = msgspec.msgpack.decode(await store.run(*sent[1]))
    # I expect that the worker does not take what was counted for lost
    assert answer[0] == ["ok"]
    assert await step_counts(store, study, 0) == {"finished": 2}


def noted(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What is sent from now on."""
    sent: list[tuple] = []
    real = store.run

    async def run(*words):
        sent.append(words)
        return await real(*words)

    monkeypatch.setattr(store, "run", run)
    return sent


async def test_late_copy_of_an_old_claim_request_claims_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a request that was sent again, and whose first copy is still on its way
    study = await submit(store, make_plan(4, S("a", options={"chunk": 1})))
    worker = await worker_of(store, "worker")
    sent: list[tuple[object, ...]] = []
    real = store.run

    async def noting(move: str, *words):
        sent.append((move, *words))
        return await real(move, *words)

    monkeypatch.setattr(store, "run", noting)
    (first,) = await worker.claim()
    (second,) = await worker.claim()
    # When the newest comes twice, its answer is the same; and an older one finds nothing for it
    raw = await real(*sent[1])
    assert raw == await real(*sent[1])
    assert str(second.number).encode() not in await real(*sent[0])
    assert await step_counts(store, study, 0) == {"ready": 2, "running": 2}
    assert await store.client.hlen(store.keys.worker_claims("worker")) == 2
    assert first.number < second.number


async def test_nobody_is_lost_when_the_server_stands_still(own_server: TestServer) -> None:
    """The server is stopped for several leases, and then killed and started again on its data."""
    client = redis.asyncio.Redis(unix_socket_path=str(own_server.socket))
    store = Store(client, "still", patience_s=20)
    study = await submit(store, make_plan(1, S("a")))
    worker = await worker_of(store, "worker", 1)
    await worker_of(store, "other", 1)
    (claim,) = await worker.claim()
    await store.reclaim("other")
    assert own_server.process is not None
    own_server.process.send_signal(signal.SIGSTOP)
    with anyio.move_on_after(2):
        await client.ping()
    own_server.process.send_signal(signal.SIGCONT)
    # The other one is first to come back: all that it sees is leases that are over
    await client.connection_pool.disconnect()
    assert (await store.reclaim("other")).removed_workers == ()
    assert (await worker.beat(1)).lost == ()
    # Everything is on disk, then the server dies
    await eventually(lambda: _is_on_disk(client), "the append-only file is written")
    own_server.stop(signal.SIGKILL)
    own_server.start()
    await client.connection_pool.disconnect()
    assert (await worker.beat(1)).lost == ()
    assert await worker.settle(claim, all_of(claim)) == "ok"
    assert await state_of(store, study) == "finished"
    await client.aclose()


async def _is_on_disk(client: redis.asyncio.Redis) -> bool:
    facts = await client.info("persistence")
    return facts["aof_pending_bio_fsync"] == 0 and facts["aof_buffer_length"] == 0


async def test_lost_samples_do_not_wait_behind_long_bites_of_the_others(store: Store) -> None:
    # Given a large node of short samples, and a worker that died over a large bite of it
    study = await submit(store, make_plan(1_000_000, S("a")))
    dead, worker = await worker_of(store, "dead"), await worker_of(store, "w", slots=1)
    (first,) = await dead.claim(1)
    await dead.settle(first, OutcomeRun(1, "finished"))
    (claim,) = await dead.claim(1)
    assert claim.hi - claim.lo == 1000
    await lose(store, "dead")
    # When another one goes on, I expect short bites until the last lost sample has been claimed, and long ones then
    sizes: list[int] = []
    while sum(size == 1 for size in sizes) < 1000:
        (claim,) = await worker.claim()
        sizes.append(claim.hi - claim.lo)
        await worker.settle(claim, OutcomeRun(sizes[-1], "finished"))
    assert max(sizes) <= 60
    assert len(sizes) < 2100
    assert await store.client.hget(store.keys.instance(study, 0), "lost") == b"0"
    (claim,) = await worker.claim()
    assert claim.hi - claim.lo > 500
