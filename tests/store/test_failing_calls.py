"""Each call of each move fails in turn, after those before it were done; then all workers are lost, and one goes on.

No study may wait for ever: it comes to its end with every sample counted once, or it has failed and says why. No other
study is harmed, and of what has ended nothing is left but counters that expire.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import ResponseError

from mrun.engine.errors import MrunError, NotFoundError
from mrun.engine.ids import new_study_id
from mrun.engine.records import OutcomeRun
from mrun.engine.store.allocs import PAUSE, Allocs, AllocState, AllocTerms
from mrun.engine.store.library import moves, script_text
from mrun.engine.store.store import Store
from tests.store.plans import SEAL, IdleWorker, S, larger, make_plan, state_of, step_counts, submit
from tests.store.test_leases import lose, now_ms

#: Stands at the top of a move; the second key is the number of the call that is to fail.
FAILING = """
local count, server = 0, redis
local function fails()
  count = count + 1
  if count == tonumber(KEYS[2]) then server.call('SET', KEYS[1] .. 'failed', 1) end
  return count == tonumber(KEYS[2])
end
local redis = setmetatable({
  call = function(...)
    if fails() then error({err = 'ERR made to fail'}) end
    return server.call(...)
  end,
  pcall = function(...)
    if fails() then return {err = 'ERR made to fail'} end
    return server.pcall(...)
  end}, {__index = server})
"""
#: The key by which the script tells that the call was reached.
FAILED = "failed"
SAMPLES = 4
PLAN = make_plan(
    SAMPLES,
    S("a", options={"chunk": 1, "retry_delay_s": 0.0}),
    S("b", after=("a",)),
    S("f", False, after=("b*",)),
)
ALLOC = AllocTerms("sim", "ab12", "slurm", ("q",), 3600.0)
MOVES = moves()

Act = Callable[[], Awaitable[object]]


class Stage:
    """A study with samples in every state, one beside it that nothing is done to, and who works on them."""

    def __init__(self, store: Store) -> None:
        self.store, self.allocs = store, Allocs(store, SEAL)
        self.worker, self.other = IdleWorker(store, "worker", slots=3), IdleWorker(store, "other", slots=1)

    async def build(self) -> None:
        self.study = await submit(self.store, PLAN)
        self.good = await submit(self.store, make_plan(1, S("a", queue="r")))
        await self.other.beat()
        await self.worker.beat()
        first, self.claim, _ = await self.worker.claim()
        await self.worker.settle(first, OutcomeRun(1, "retry"))
        await self.other.claim()

    async def act(self, move: str) -> Act:
        """What is done to it by this move; all that comes before is done."""
        return await getattr(self, f"_{move}")()

    async def _submit(self) -> Act:
        study = new_study_id()
        return lambda: self.store.submit(study, PLAN, SEAL)

    async def _commit(self) -> Act:
        study = new_study_id()
        staged = await self.store.submit(study, PLAN, SEAL)
        facts: list[Any] = ["root", study, "walltimes", "[0,0,0]", "instances_left", len(PLAN.nodes)]
        facts += ["step_count", len(PLAN.steps)]
        return lambda: self.store.commit(study, staged, facts)

    async def _claim(self) -> Act:
        return self.worker.claim

    async def _settle(self) -> Act:
        return lambda: self.worker.settle(self.claim, OutcomeRun(1, "finished"))

    async def _hand_back(self) -> Act:
        return lambda: self.store.hand_back("worker", self.claim, self.claim.lo, is_started=True)

    async def _beat(self) -> Act:
        del self.worker.claims[self.claim.number]
        return self.worker.beat

    async def _reclaim(self) -> Act:
        await self.store.client.zadd(self.store.keys.workers, {"worker": 1})
        await self.store.client.hset(self.store.keys.clock, "swept_ms", await now_ms(self.store))
        return lambda: self.store.reclaim("other")

    async def _leave(self) -> Act:
        return lambda: self.store.leave("worker")

    async def _stop(self) -> Act:
        return lambda: self.store.stop(["worker", "other"])

    async def _cancel(self) -> Act:
        return lambda: self.store.cancel(self.study)

    async def _hold(self) -> Act:
        await self.store.hold(self.study, is_held=True)
        return lambda: self.store.hold(self.study, is_held=False)

    async def _prioritize(self) -> Act:
        return lambda: self.store.prioritize(self.study, 3)

    async def _grow(self) -> Act:
        plan = larger(PLAN, 2)
        return lambda: self.store.grow(self.study, plan, SEAL, b"[]")

    async def _purge(self) -> Act:
        return lambda: self.store.purge(self.study)

    async def _alloc_add(self) -> Act:
        return lambda: self.allocs.add(ALLOC)

    async def _alloc_keep(self) -> Act:
        await self.allocs.add(ALLOC)
        return lambda: self.allocs.keep("sim", "keeper", 60)

    async def _alloc_note(self) -> Act:
        await self.allocs.add(ALLOC)
        kept = await self.allocs.keep("sim", "keeper", 60)
        assert kept is not None
        return lambda: self.allocs.note(kept, "keeper", AllocState(last_number=1))

    async def _alloc_ask(self) -> Act:
        await self.allocs.add(ALLOC)
        return lambda: self.allocs.ask("sim", PAUSE)

    async def _forget(self) -> Act:
        await self.store.cancel(self.study)
        for worker in (self.worker, self.other):
            await self.store.leave(worker.name)
        assert await state_of(self.store, self.study) == "cancelled"
        return lambda: self.store.forget(self.study)


async def does_fail(store: Store, move: str, number: int, act: Act, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Do it, with the so-manieth call of the move failing, once. False: it has fewer."""
    shebang, text = script_text(move).split("\n", 1)
    real = store.run
    names = [move]

    async def run(name: str, *words: Any) -> Any:
        if name not in names:
            return await real(name, *words)
        # The move is made again where it is not done: then all of its calls work.
        names.remove(name)
        return await store.client.eval(f"{shebang}\n{FAILING}{text}", 2, store.keys.root, number, *words)

    with monkeypatch.context() as patch:
        patch.setattr(store, "run", run)
        try:
            await act()
        except ResponseError as error:
            if "made to fail" not in str(error):
                raise
    return bool(await store.client.delete(f"{store.keys.root}{FAILED}"))


async def go_on(store: Store) -> None:
    """All workers are lost, and another one works until nothing is left to do."""
    names = [name.decode() for name in await store.client.zrange(store.keys.workers, 0, -1)]
    if names:
        await lose(store, *names)
    last = IdleWorker(store, "last", ("q", "r"), slots=9)
    for _ in range(50):
        await last.beat()
        if not await last.drain() and not await store.client.exists(store.keys.todo, store.keys.later):
            break
    else:
        raise AssertionError("there is no end to it")
    await store.leave("last")


async def assert_sound(store: Store, stage: Stage) -> None:
    """Everything has ended, and nothing of it is left but what expires."""
    assert await state_of(store, stage.good) == "finished", await store.client.hget(store.keys.study(stage.good), "why")
    for raw in await store.client.zrange(store.keys.studies, 0, -1):
        study = raw.decode()
        state = await state_of(store, study)
        if state == "failed":
            assert await store.client.hget(store.keys.study(study), "why")
            continue
        assert state in ("finished", "cancelled"), state
        if state == "finished" and study != stage.good:
            samples = sum((await step_counts(store, study, 0)).values())
            assert [await step_counts(store, study, step) for step in range(3)] == [
                {"finished": samples},
                {"finished": samples},
                {"finished": 1},
            ]
    for name in await stage.allocs.names():
        with contextlib.suppress(NotFoundError):
            assert (await stage.allocs.look(name)).terms == ALLOC
    left = [
        key for kind in ("worker", "study", "queue") for key in await store.client.keys(f"{store.keys.root}{kind}:*")
    ]
    assert [key for key in left if await store.client.ttl(key) < 0] == []


@pytest.mark.parametrize("is_repeated", [False, True], ids=["once", "repeated"])
@pytest.mark.parametrize("move", MOVES)
async def test_move_of_which_a_call_fails_leaves_nothing_waiting_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch, move: str, is_repeated: bool
) -> None:
    number = 0
    while True:
        number += 1
        await store.client.flushdb()
        stage = Stage(store)
        await stage.build()
        act = await stage.act(move)
        if not await does_fail(store, move, number, act, monkeypatch):
            break
        if is_repeated:
            # It may be told that the study has ended, or is not there.
            with contextlib.suppress(MrunError):
                await act()
        await store.hold(stage.study, is_held=False)
        try:
            await go_on(store)
            await assert_sound(store, stage)
        except AssertionError as error:
            raise AssertionError(f"call {number} of {move}") from error
    assert number > 1
