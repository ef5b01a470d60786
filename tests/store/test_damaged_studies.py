"""Each key of a study is deleted, replaced by one of another type, or filled with nonsense; then moves are made.

No move may fail for it, the other studies of the same queues come to their ends, and so does the damaged one: as
failed, with a sentence, if what was lost matters.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Iterator

import msgspec
import pytest
import redis.asyncio

from mrun.engine.errors import NotFoundError, UsageError
from mrun.engine.ids import new_study_id
from mrun.engine.records import OutcomeRun, Room
from mrun.engine.store.backlog import look_at_backlog
from mrun.engine.store.demands import find_stranded
from mrun.engine.store.library import Door, Library
from mrun.engine.store.store import Store
from mrun.engine.store.views import Views
from tests.store.plans import SEAL, IdleWorker, S, larger, make_plan, state_of, step_counts, submit
from tests.store.small_moves import changed
from tests.store.test_failing_calls import Act
from tests.store.test_leases import lose, now_ms

#: So that a few samples are kept as bits, too.
CHANGES = {
    "local INSTANCE_RANGES_MOST = 16": "local INSTANCE_RANGES_MOST = 1",
    "local STREAM_RANGES_MOST = 1024": "local STREAM_RANGES_MOST = 1",
    "local LATER_MOST = 1000": "local LATER_MOST = 1",
    "local ITEMS = 200": "local ITEMS = 8",
}
#: A loose sample, and a range; two parents of one child; and a step that waits for all.
PLAN = make_plan(
    24,
    S("a", options={"chunk": 1, "retry_delay_s": 0.0}),
    S("b", options={"chunk": 1, "retry_delay_s": 3600.0}),
    S("c", after=("a", "b")),
    S("d", False, after=("c*",), rows=30),
)
STEPS = b'[["a",1,24,["q"]],["b",1,24,["q"]],["c",1,24,["q"]],["d",30,1,["q"]]]'
#: What a study is kept in (docs/redis-keys.md): how the key goes on after `study:<s>`; `stream` is in a queue's name.
KINDS = (
    *("", ":plan", ":instance:", ":done:", ":bad:", ":out:", ":past", ":past:", ":grown:"),
    *(":followers", ":ranges:", ":todo", ":scattered", ":scattered:", ":retries", ":retries:", ":reasons", "stream"),
)  # fmt: skip
NO_HASHES = (
    ":done:",
    ":bad:",
    ":out:",
    ":past:",
    ":followers",
    ":todo",
    ":scattered:",
    ":retries",
    ":retries:",
    "stream",
)
DAMAGES = ("deleted", "another type", "no numbers", "some fields")
ACTS = (
    *("claim", "claim with room", "claim of a family", "settle", "settle a retry", "hand back", "beat"),
    *("beat without claims", "tend", "tend a dead worker", "leave", "cancel", "hold", "release", "prioritize", "grow"),
    *("purge", "forget", "replace", "status", "all studies", "inspect", "find a workspace", "family", "queues"),
    *("unfinished", "failed samples"),
)
GARBAGE = (b"garbage", b"[]", b"\x93\x01\x02\x03", b"-1", b"1e300")


@functools.cache
def changed_library() -> Library:
    """The moves with small limits."""
    return Library(changed(CHANGES))


class Stage:
    """A study with every key that a study can have, one that waits for it, and one beside it on the same queue."""

    def __init__(self, store: Store) -> None:
        self.store, self.views = store, Views(store, SEAL)
        self.worker, self.other = IdleWorker(store, "worker", slots=3), IdleWorker(store, "other", slots=2)

    async def build(self) -> None:
        self.store._door = Door(self.store.client, changed_library())
        # Of the second chunk nothing is looked at: there is none.
        past = [("0:0:past", b"2 \xc0"), ("1:0:pastf", b"1 \x20"), ("0:1:past", b"1 \x80")]
        facts = {"steps": STEPS.decode(), "queues": "q", "class_count": 1, "workspace": "/nowhere"}
        self.study = await submit(self.store, PLAN, past, **facts)
        self.follower = await submit(self.store, make_plan(1, S("a", queue="r")), after=self.study)
        await self.other.beat()
        await self.worker.beat()
        for _ in range(12):
            await self.worker.claim()
        # Every other sample ends in another way: what is ready, or is to be retried, can't be joined.
        ways = {0: "finished", 1: "retry", 2: "failed", 3: "retry"}
        for claim in sorted(self.worker.claims.values(), key=lambda one: (one.node, one.lo))[:-2]:
            await self.worker.settle(claim, OutcomeRun(1, ways[claim.lo % 4], flags=int(claim.lo % 8 == 2)))
        self.claim, self.second = self.worker.claims.values()
        self.good = await submit(self.store, make_plan(2, S("a", options={"chunk": 1})), steps='[["a",1,2,["q"]]]')
        await self.store._stage(self.study, "grown:name", [("step:0", b"x")])

        await self.store.client.hset(self.store.keys.reasons(self.study), "0:2", "lost 3 workers")
        await self.store.client.rpush(f"{self.store.keys.study(self.study)}:todo", msgspec.msgpack.encode(["idle"]))
        await self.store.client.zadd(self.store.keys.todo, {self.study: 1})

    async def keys_of(self, kind: str) -> list[bytes]:
        """The keys of this kind."""
        keys = self.store.keys
        if kind == "stream":
            return [keys.stream("q", self.study, 0).encode()]
        name = f"{keys.study(self.study)}{kind}"
        if not kind.endswith(":"):
            return [name.encode()] if await self.store.client.exists(name) else []
        return sorted(await self.store.client.keys(f"{name}*"))

    async def damage(self, kind: str, damage: str) -> None:
        """Do it to all keys of the kind."""
        client, found = self.store.client, await self.keys_of(kind)
        assert found, "the stage has no such key"
        for key in found:
            is_hash = await client.type(key) == b"hash"
            if damage == "some fields":
                await _spoil(client, key)
            elif damage == "no numbers" and is_hash:
                await client.hset(key, mapping=dict.fromkeys(await client.hkeys(key), b"garbage"))
            else:
                await client.delete(key)
            if damage == "another type":
                await (client.set(key, "text") if is_hash else client.hset(key, "field", "text"))

    def acts(self) -> dict[str, Act]:
        """What is done by workers and commands; each may be the first to come by the damage."""
        store, study, worker = self.store, self.study, self.worker
        room = Room({"slots": 2, "cpus": 2}, {"slots": 2, "cpus": 2}, False)
        views = self.views
        return {
            "claim": self.other.claim,
            "claim with room": lambda: self.other.claim(room=room, time_left_ms=60_000),
            "claim of a family": lambda: self.other.claim(root_study=study),
            "settle": lambda: worker.settle(self.claim, OutcomeRun(1, "failed", flags=1)),
            "settle a retry": lambda: worker.settle(self.claim, OutcomeRun(1, "retry")),
            "hand back": lambda: store.hand_back("worker", self.claim, self.claim.lo, is_started=True, slow_ms=5000),
            "beat": worker.beat,
            "beat without claims": lambda: store.beat("worker", 30, [], worker.highest),
            "tend": lambda: store.reclaim("other"),
            "tend a dead worker": lambda: lose(store, "worker"),
            "leave": lambda: store.leave("worker"),
            "cancel": lambda: store.cancel(study),
            "hold": lambda: store.hold(study, is_held=True),
            "release": lambda: store.hold(study, is_held=False),
            "prioritize": lambda: store.prioritize(study, 3),
            "grow": lambda: store.grow(study, larger(PLAN, 2), SEAL, STEPS),
            "purge": lambda: store.purge(study),
            "forget": lambda: store.forget(study),
            "replace": self._replace,
            "status": lambda: views.status(study),
            "all studies": views.studies,
            "inspect": self._inspect,
            "find a workspace": lambda: views.find("/nowhere"),
            "family": lambda: views.family(study),
            "queues": lambda: views.queues_of([study]),
            "unfinished": lambda: views.has_unfinished(["q"], "", []),
            "failed samples": lambda: views.failed_samples(study, 10),
        }

    async def _replace(self) -> None:
        await self.store.cancel(self.study)
        await self.store.leave("worker")
        self.newer = await submit_run(self.store, self.study)

    async def _inspect(self) -> None:
        found = await self.views.inspect()
        await find_stranded(self.store, found)
        await look_at_backlog(self.store, ["q"], [], await now_ms(self.store), lambda needs: True)
        await self.views.workers()


async def submit_run(store: Store, replaced: str) -> str:
    """Another study in the place of this one."""
    study = new_study_id()
    staged = await store.submit(study, make_plan(1, S("a")), SEAL)
    await store.commit(study, staged, ["walltimes", "[0]", "instances_left", 1, "step_count", 1], replaces=replaced)
    return study


async def _spoil(client: redis.asyncio.Redis, key: bytes) -> None:
    """Put nonsense into some places of a key, by turns, and of the right type."""
    kind = (await client.type(key)).decode()
    if kind == "hash":
        for number, field in enumerate(sorted(await client.hkeys(key))):
            if number % 6 < len(GARBAGE):
                await client.hset(key, field, GARBAGE[number % 6])
            else:
                await client.hdel(key, field)
    elif kind == "zset":
        await client.zadd(key, dict.fromkeys(GARBAGE, 1))
    elif kind == "set":
        await client.sadd(key, *GARBAGE)
    elif kind == "list":
        await client.lpush(key, *GARBAGE)
    elif kind == "stream":
        await client.xadd(key, {"t": "garbage"})
        await client.xadd(key, {"t": "0 3 99 0 0 0"})
    else:
        await client.set(key, b"")


async def go_on(stage: Stage) -> None:
    """All workers die, every retry is due, and another worker works and sweeps until nothing changes any more."""
    store, client = stage.store, stage.store.client
    await store.hold(stage.study, is_held=False)
    names = [name.decode() for name in await client.zrange(store.keys.workers, 0, -1)]
    if names:
        await lose(store, *names)
    later = store.keys.retries(stage.study)
    if await client.type(later) == b"zset" and await client.zscore(store.keys.later, stage.study):
        await client.zadd(later, dict.fromkeys(await client.zrange(later, 0, -1), 1))
        await client.zadd(store.keys.later, {stage.study: 1})
    last = IdleWorker(store, "last", ("q", "r"), slots=9)
    for _ in range(100):
        await last.beat()
        await store.reclaim("last")
        if not await last.drain() and not await client.exists(store.keys.todo, store.keys.later):
            break
    else:
        raise AssertionError("there is no end to it")
    for _ in range(3):
        await store.reclaim("last")
        await last.beat()
        await last.drain()
    await store.leave("last")


async def assert_sound(stage: Stage, kind: str) -> None:
    """The others have ended well, the damaged one as it may; and nothing of it is left but what expires."""
    store = stage.store
    assert await state_of(store, stage.good) == "finished"
    assert await step_counts(store, stage.good, 0) == {"finished": 2}
    state = await state_of(store, stage.study)
    if state != "gone":
        status = await stage.views.status(stage.study)
        assert status.state == state
        assert status.is_ended, state
        assert state != "failed" or "mrun restart" in status.why, status.why
        if state == "finished":
            sums = [sum((await step_counts(store, stage.study, step)).values()) for step in range(4)]
            # Of counters that were deleted the rest is counted.
            assert kind == "" or sums in ([24, 24, 24, 30], [26, 26, 26, 30]), sums
    assert await state_of(store, stage.follower) == "finished"
    assert [key for key in await _left(stage, kind) if await store.client.ttl(key) < 0] == []
    await store.purge(stage.study)
    left = await _left(stage, kind)
    assert left == [], left


async def _left(stage: Stage, kind: str) -> list[bytes]:
    """Keys of the study. Bitmaps of which nobody has the names any more are left, too."""
    keys = await stage.store.client.keys(f"{stage.store.keys.root}*{stage.study}*")
    nameless = {":scattered": b":scattered:", ":retries": b":retries:"}.get(kind, b"no such key")
    # What was staged goes by itself, after an hour.
    return [key for key in keys if nameless not in key and b":grown:" not in key]


def cases() -> Iterator[tuple[str, str]]:
    """Numbers are in hashes only."""
    for kind, damage in itertools.product(KINDS, DAMAGES):
        if damage != "no numbers" or kind not in NO_HASHES:
            yield kind, damage


CASES = list(cases())
#: Each damage meets every so-manieth move, by turns; MRUN_DAMAGE_ALL=1 tries every one (a quarter of an hour).
EVERY = 1 if os.environ.get("MRUN_DAMAGE_ALL") else 7


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "number", range(len(CASES)), ids=[f"{kind.strip(':') or 'itself'}-{how}" for kind, how in CASES]
)
async def test_damaged_study_ends_and_harms_no_other(store: Store, number: int) -> None:
    kind, damage = CASES[number]
    problems = []
    for name in ACTS[number % EVERY :: EVERY]:
        await store.client.flushdb()
        stage = Stage(store)
        await stage.build()
        await stage.damage(kind, damage)
        try:
            with contextlib.suppress(NotFoundError, UsageError):
                await stage.acts()[name]()
            await go_on(stage)
            await assert_sound(stage, kind)
        except Exception as error:  # noqa: BLE001  # whatever it is, the other moves are to be tried, too
            problems.append(f"{name}: {type(error).__name__}: {error}")
    assert not problems, "\n".join(problems)
