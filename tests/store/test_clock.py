"""The server's clock is set back by an hour, as the store sees it: what it keeps is an hour ahead of the server's time.

tests/chaos/test_clock.py does it to a server's real clock.
"""

from __future__ import annotations

import pytest

from mrun.engine.errors import NotFoundError
from mrun.engine.records import ClaimRequest, OutcomeRun, WorkerFacts
from mrun.engine.store.store import Store
from mrun.engine.store.views import Views
from tests.store.plans import SEAL, IdleWorker, S, make_plan, state_of, step_counts, submit
from tests.store.test_leases import LONG_S, SHORT_S, all_of, eventually, now_ms, swept_until_removed, worker_of

HOUR_MS = 3_600_000


async def set_back(store: Store) -> None:
    """What was written before the clock was set back."""
    client, root = store.client, store.keys.root
    keys = store.keys
    zsets = [key.encode() for key in (keys.workers, keys.later, keys.studies, keys.deaths)]
    zsets += await client.keys(f"{root}study:*:retries")
    for key in zsets:
        for member in await client.zrange(key, 0, -1):
            await client.zincrby(key, HOUR_MS, member)
    for field, by in (("swept_ms", HOUR_MS), ("sweeps_until_ms", HOUR_MS), ("last_claim", 1000 * HOUR_MS)):
        if await client.hexists(keys.clock, field):
            await client.hincrby(keys.clock, field, by)


async def store_ms(store: Store) -> int:
    """The store's time."""
    return await now_ms(store) + int(await store.client.hget(store.keys.clock, "set_back_ms") or 0)


async def test_clock_that_is_set_back_expires_nobody(store: Store) -> None:
    study = await submit(store, make_plan(1, S("a")))
    worker = await worker_of(store, "worker", 10)
    (claim,) = await worker.claim()
    await store.reclaim("worker")
    await set_back(store)
    answer = await store.reclaim("worker")
    assert (answer.is_outage, answer.removed_workers) == (1, ())
    assert (await worker.beat(10)).lost == ()
    assert await worker.settle(claim, all_of(claim)) == "ok"
    assert await state_of(store, study) == "finished"


async def test_worker_that_is_dead_when_the_clock_is_set_back_is_found_in_time(store: Store) -> None:
    # Given a worker that died, and another one that tends
    study = await submit(store, make_plan(1, S("a")))
    tender, dead = await worker_of(store, "tender"), await worker_of(store, "dead", SHORT_S)
    await dead.claim()
    await store.reclaim("tender")
    # When the clock is set back, I expect its lease to end as it would have, or once more
    await set_back(store)
    await swept_until_removed(store, "dead", by="tender")
    await tender.drain()
    assert await state_of(store, study) == "finished"


async def test_tender_that_dies_as_the_clock_is_set_back_is_followed_by_another(store: Store) -> None:
    # Given a tender that is not heard of any more, and a worker that waits for work
    await worker_of(store, "dead", 1)
    idle = await worker_of(store, "idle", LONG_S)
    await store.reclaim("dead")
    await set_back(store)

    async def idle_tends() -> bool:
        await idle.claim()
        return (await idle.beat(LONG_S)).sweep_in_ms > 0

    await eventually(idle_tends, "the other worker tends", timeout_s=5)


@pytest.mark.parametrize("samples", [1, 1100])
async def test_retry_waits_for_no_longer_than_its_delay(store: Store, samples: int) -> None:
    # Given retries, as ranges and as bits, that are due soon
    plan = make_plan(2 * samples, S("a", options={"chunk": 2 * samples, "retry_delay_s": 1.0}))
    study = await submit(store, plan)
    worker = await worker_of(store, "worker")
    (claim,) = await worker.claim()
    for lo in range(0, 2 * samples, 60):
        runs = [OutcomeRun(1, state) for state in ("retry", "finished")] * min(30, samples - lo // 2)
        await worker.settle(claim, *runs, lo=lo)
    await store.reclaim("worker")
    # When the clock is set back by an hour
    await set_back(store)
    # I expect them to run within seconds

    async def is_over() -> bool:
        await worker.drain()
        return await state_of(store, study) == "finished"

    await eventually(is_over, "all retries have run", timeout_s=10)
    assert await step_counts(store, study, 0) == {"finished": 2 * samples}


async def test_claim_numbers_and_the_order_of_studies_do_not_go_back(store: Store) -> None:
    first = await submit(store, make_plan(2, S("a", options={"chunk": 1})))
    worker = await worker_of(store, "worker")
    (before,) = await worker.claim(1)
    await store.reclaim("worker")
    await set_back(store)
    (after,) = await worker.claim(1)
    assert after.number > before.number
    second = await submit(store, make_plan(1, S("a")))
    assert await Views(store, SEAL).find("all") == [first, second]
    # What people read is the server's own time
    queued_ms = int(await store.client.hget(store.keys.study(second), "queued_at_ms"))
    assert abs(await now_ms(store) - queued_ms) < HOUR_MS / 2


async def test_workers_are_shown_with_what_is_left_of_their_leases(store: Store) -> None:
    worker = await worker_of(store, "worker", 10)
    await store.reclaim("worker")
    await set_back(store)
    await worker.beat(10)
    (shown,) = (await Views(store, SEAL).inspect()).workers
    assert 5 < shown.lease_left_s <= 10


async def test_time_left_is_kept_by_the_stores_clock_whatever_the_workers_own_says(store: Store) -> None:
    await store.client.hset(store.keys.clock, "set_back_ms", HOUR_MS)
    await store.beat("worker", LONG_S, [], 0, facts=WorkerFacts("h", 1, ("q",), 1, time_left_ms=600_000))
    ends_ms = int(await store.client.hget(store.keys.worker("worker"), "ends_at_ms"))
    assert 590_000 < ends_ms - await store_ms(store) <= 600_000


async def test_submission_whose_parts_expired_says_so(store: Store) -> None:
    # Given a clock that is set forward by an hour while a study is laid down: its parts are gone
    staged = await store.submit("late", make_plan(1, S("a")), SEAL)
    await store.client.pexpireat(store.keys.plan("late"), 1)
    with pytest.raises(NotFoundError, match="expired before they were complete") as caught:
        await store.commit("late", staged, ["name", "test"])
    assert "again" in caught.value.hint
    assert await state_of(store, "late") == "gone"


# ---------------------------------------------------------------------------------- looks for work as signs of life


async def test_look_for_work_is_a_sign_of_life(store: Store) -> None:
    # Given a worker whose lease has nearly ended
    await worker_of(store, "tender", LONG_S)
    worker = await worker_of(store, "worker", LONG_S)
    workers = store.keys.workers
    for has_work in (False, True):
        if has_work:
            await submit(store, make_plan(1, S("a")))
        await store.client.zadd(workers, {"worker": await now_ms(store) + 100})
        # When it looks, with work and without
        assert bool(await worker.claim()) == has_work
        # I expect a whole lease, so that what it claimed is not under an old one
        assert await store.client.zscore(workers, "worker") > await now_ms(store) + 900 * LONG_S


async def test_look_for_work_makes_nobody_known_and_tells_when_nobody_tends(store: Store) -> None:
    worker = IdleWorker(store, "worker")
    request = ClaimRequest(1, ("q",))
    assert (await store.claim("worker", request)).status == "unknown"
    assert await store.client.exists(store.keys.workers) == 0
    await worker.beat()
    assert (await store.claim("worker", request)).is_untended == 0
    await store.client.hdel(store.keys.clock, "sweeper")
    assert (await store.claim("worker", request)).is_untended == 1
    assert (await worker.beat()).sweep_in_ms > 0
    assert (await store.claim("worker", request)).is_untended == 0


async def test_worker_that_is_asked_to_stop_is_rung(store: Store) -> None:
    await worker_of(store, "worker")
    await store.stop(["worker", "nosuch"])
    await store.stop(["worker"])
    assert await store.client.llen(store.keys.worker_bell("worker")) == 1
    assert (await store.claim("worker", ClaimRequest(1, ("q",)))).status == "drain"
    await store.leave("worker")
    assert await store.client.keys(f"{store.keys.root}worker:*") == []
