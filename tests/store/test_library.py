"""The server side as a function library: both doors, several versions, the layout of a namespace, what a call costs."""

from __future__ import annotations

import pytest
import redis.asyncio

from mrun.engine.errors import BrokerError
from mrun.engine.records import OutcomeRun, Room
from mrun.engine.store.generate import TARGET, schema_text
from mrun.engine.store.library import LIBRARY_PREFIX, Door, Library, body
from mrun.engine.store.schema import LAYOUT
from mrun.engine.store.store import Store
from mrun.engine.store.views import Views
from tests.store.plans import SEAL, S, make_plan, state_of, step_counts, submit, worker_of

#: What a claim and a settle of one sample may ask of the server together.
CALLS_MOST = 50


def all_of(claim) -> OutcomeRun:
    return OutcomeRun(claim.hi - claim.lo, "finished")


async def libraries(store: Store) -> list[str]:
    found = await store.client.execute_command("FUNCTION", "LIST")
    names = [(one[b"library_name"] if isinstance(one, dict) else one[1]).decode() for one in found]
    return [name for name in names if name.startswith(LIBRARY_PREFIX)]


def test_generated_schema_is_that_of_the_modules() -> None:
    assert TARGET.read_text("utf-8") == schema_text(), "run `python -m mrun.engine.store.generate`"


async def test_library_that_the_server_lost_is_loaded_again(store: Store) -> None:
    study = await submit(store, make_plan(3, S("a", options={"chunk": 1})))
    worker = await worker_of(store)
    await store.client.execute_command("FUNCTION", "FLUSH")
    await worker.drain()
    assert await state_of(store, study) == "finished"
    assert len(await libraries(store)) == 1


async def test_versions_stand_beside_each_other(store: Store) -> None:
    # Given a server that another version uses, too
    await store.client.execute_command("FUNCTION", "FLUSH")
    other = Store(store.client, store.keys.namespace)
    other._door = Door(store.client, Library(f"{body()}\n-- another version\n"))
    studies = [await submit(one, make_plan(2, S("a", queue=queue))) for one, queue in ((store, "q"), (other, "r"))]
    # When workers of both run
    for one, queue, study in zip((store, other), "qr", studies, strict=True):
        await (await worker_of(one, f"of-{queue}", (queue,))).drain()
        assert await state_of(one, study) == "finished"
    assert len(await libraries(store)) == 2


async def test_full_server_that_does_not_know_the_library_settles_cancels_and_purges(store: Store) -> None:
    first, second = [await submit(store, make_plan(4, S("a", options={"chunk": 1}))) for _ in range(2)]
    worker = await worker_of(store)
    (claim, *_) = await worker.claim()
    # Given a server without memory, which has forgotten the moves
    await store.client.config_set("maxmemory", 1)
    await store.client.execute_command("FUNCTION", "FLUSH")
    try:
        # I expect that what frees memory runs all the same
        assert await worker.settle(claim, all_of(claim)) == "ok"
        assert await worker.claim()
        assert (await store.cancel(first)).status == "ok"
        assert await store.purge(second)
        assert (await worker.beat()).status == "ok"
        assert await libraries(store) == []
    finally:
        await store.client.config_set("maxmemory", 0)
    # And when there is memory again, the library is loaded
    await worker.beat()
    assert len(await libraries(store)) == 1


@pytest.mark.parametrize("denied", [("-function|load",), ("-function", "-fcall")])
async def test_user_who_may_not_load_functions_works_by_scripts(store: Store, denied: tuple[str, ...]) -> None:
    await store.client.execute_command("FUNCTION", "FLUSH")
    keys = store.keys.root.split(":")[0]
    await store.client.execute_command(
        "ACL", "SETUSER", "anna", "reset", "on", ">secret", f"~{keys}:*", "+@all", *denied
    )
    options = store.client.connection_pool.connection_kwargs | {"username": "anna", "password": "secret"}
    pool = redis.asyncio.ConnectionPool(connection_class=store.client.connection_pool.connection_class, **options)
    client = redis.asyncio.Redis(connection_pool=pool)
    try:
        own = Store(client, store.keys.namespace)
        study = await submit(own, make_plan(3, S("a")))
        await (await worker_of(own)).drain()
        assert await state_of(own, study) == "finished"
        assert await libraries(store) == []
    finally:
        await client.aclose()
        await pool.disconnect()
        await store.client.execute_command("ACL", "DELUSER", "anna")


@pytest.mark.parametrize("layout", ["1", str(LAYOUT + 1)])
async def test_namespace_of_another_layout_is_refused_and_left_alone(store: Store, layout: str) -> None:
    # Given keys as another version has them
    if layout == "1":
        await store.client.zadd(f"{{{store.keys.namespace}}}:studies", {"old": 1})
    else:
        await store.client.set(f"{{{store.keys.namespace}}}:studies", f"layout {layout}")
    keys = sorted(await store.client.keys(f"{{{store.keys.namespace}}}*"))
    # When this version asks for something, by a move or for a look
    views = Views(store, SEAL)
    for ask in (lambda: store.cancel("old"), views.studies, lambda: store.beat("w", 30, [], 0)):
        with pytest.raises(BrokerError, match=f"layout {layout}") as caught:
            await ask()
        assert "--namespace" in caught.value.hint
    assert sorted(await store.client.keys(f"{{{store.keys.namespace}}}*")) == keys


async def test_versions_before_layouts_find_a_sign_where_they_had_their_keys(store: Store) -> None:
    await submit(store, make_plan(1, S("a")))
    # Their moves look at one of these first, and a text there makes them fail before they write
    for name in ("studies", "workers"):
        assert await store.client.get(f"{{{store.keys.namespace}}}:{name}") == f"layout {LAYOUT}".encode()


async def test_claim_and_settle_of_one_sample_ask_little_of_the_server(store: Store) -> None:
    study = await submit(store, make_plan(1000, S("a", options={"chunk": 1})))
    worker, room = await worker_of(store, slots=1), Room({"slots": 1, "cpus": 1}, {"slots": 1, "cpus": 1}, False)
    for _ in range(3):
        (claim,) = await worker.claim(room=room)
        await worker.settle(claim, all_of(claim))
    before = await calls(store)
    (claim,) = await worker.claim(room=room)
    await worker.settle(claim, all_of(claim))
    assert await calls(store) - before <= CALLS_MOST
    assert (await step_counts(store, study, 0))["finished"] == 4


async def calls(store: Store) -> int:
    """Commands so far, but for those by which it is asked."""
    stats = await store.client.info("commandstats")
    return sum(one["calls"] for name, one in stats.items() if name not in ("cmdstat_info", "cmdstat_fcall"))
