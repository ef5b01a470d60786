"""Allocations on the server: one keeper at a time, and a state that only follows the one before it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mrun.engine.errors import NotFoundError, SealError
from mrun.engine.store.allocs import FORCE, PAUSE, REMOVE, RESUME, AllocJob, Allocs, AllocState, AllocTerms
from mrun.engine.store.seal import Seal
from mrun.engine.store.store import Store
from tests.store.plans import SEAL
from tests.store.test_leases import eventually

TERMS = AllocTerms("sim", "ab12", "slurm", ("q", "r"), 3600.0, extra=("--constraint=fast",))


@pytest.fixture
def allocs(store: Store) -> Allocs:
    return Allocs(store, SEAL)


async def test_one_name_is_added_once_and_the_same_words_again_change_nothing(allocs: Allocs) -> None:
    assert await allocs.add(TERMS)
    assert not await allocs.add(replace(TERMS, mark="cd34"))
    assert await allocs.names() == ["sim"]
    kept = await allocs.look("sim")
    assert (kept.terms, kept.state, kept.keeper, kept.request) == (TERMS, AllocState(), "", "")


async def test_a_keeper_excludes_others_until_its_time_is_over_or_it_gives_up(allocs: Allocs) -> None:
    await allocs.add(TERMS)
    assert await allocs.keep("sim", "first", 60) is not None
    assert await allocs.keep("sim", "second", 60) is None
    assert (await allocs.look("sim")).keeper == "first"
    # It gives up what is its own, and nothing else.
    assert await allocs.keep("sim", "second", 0) is None
    assert await allocs.keep("sim", "first", 0) is not None
    assert (await allocs.look("sim")).keeper == ""
    assert await allocs.keep("sim", "second", 0.05) is not None
    assert await eventually(lambda: allocs.keep("sim", "first", 60), "its time is over")


async def test_who_was_away_for_too_long_writes_nothing(allocs: Allocs) -> None:
    await allocs.add(TERMS)
    late = await allocs.keep("sim", "first", 0.01)
    await eventually(lambda: allocs.keep("sim", "second", 60), "its time is over")
    assert late is not None
    assert await allocs.note(late, "first", AllocState(last_number=1)) is None
    assert not await allocs.forget(late, "first")
    assert (await allocs.look("sim")).state == AllocState()


async def test_two_states_from_the_same_one_are_never_both_written(allocs: Allocs) -> None:
    await allocs.add(TERMS)
    one, other = await allocs.keep("sim", "k", 60), await allocs.keep("sim", "k", 60)
    assert one is not None
    assert other is not None
    job = AllocJob(1, one.now_ms)
    written = await allocs.note(one, "k", AllocState(last_number=1, jobs=(job,)))
    assert written is not None
    assert await allocs.note(other, "k", AllocState(last_number=1)) is None
    assert (await allocs.look("sim")).state.jobs == (job,)
    assert await allocs.note(written, "k", AllocState(last_number=2)) is not None


async def test_a_note_that_is_sent_again_gets_the_same_answer(store: Store, allocs: Allocs) -> None:
    await allocs.add(TERMS)
    await allocs.keep("sim", "k", 60)
    words = ("sim", "k", 0, b"sealed", "")
    assert [int(await store.run("alloc_note", *words)) for _ in range(2)] == [1, 1]
    assert await store.run("alloc_note", "sim", "k", 0, b"another", "") == b"lost"


async def test_requests_reach_the_keeper_and_removal_is_final(allocs: Allocs) -> None:
    await allocs.add(TERMS)
    await allocs.ask("sim", PAUSE)
    kept = await allocs.keep("sim", "k", 60)
    assert kept is not None
    assert kept.request == PAUSE
    await allocs.ask("sim", RESUME)
    kept = await allocs.keep("sim", "k", 60)
    assert kept is not None
    # What came after a request that is answered is not lost.
    await allocs.ask("sim", REMOVE)
    assert await allocs.note(kept, "k", AllocState(last_number=1), answers=RESUME) is not None
    await allocs.ask("sim", PAUSE)
    assert (await allocs.look("sim")).request == REMOVE
    await allocs.ask("sim", FORCE)
    kept = await allocs.keep("sim", "k", 60)
    assert kept is not None
    assert kept.request == FORCE
    assert await allocs.forget(kept, "k")
    assert await allocs.forget(kept, "k")
    assert await allocs.names() == []
    for call in (allocs.look("sim"), allocs.ask("sim", PAUSE), allocs.keep("sim", "k", 1)):
        with pytest.raises(NotFoundError, match="no allocation 'sim'"):
            await call


async def test_nothing_of_it_can_be_read_or_moved_without_the_key(store: Store, allocs: Allocs) -> None:
    await allocs.add(TERMS)
    kept = await allocs.keep("sim", "k", 60)
    assert kept is not None
    await allocs.note(kept, "k", AllocState(error="the scheduler said it"))
    raw = await store.client.hgetall(store.keys.alloc("sim"))
    assert b"fast" not in b"".join(raw.values())
    assert b"scheduler" not in b"".join(raw.values())
    with pytest.raises(SealError, match="another key"):
        await Allocs(store, Seal(b"x" * 32)).look("sim")
    # Terms are good for their own name, a state for its own terms.
    await allocs.add(replace(TERMS, name="other", mark="ef56"))
    for field in ("terms", "state"):
        await store.client.hset(store.keys.alloc("other"), field, raw[field.encode()])
        with pytest.raises(SealError):
            await allocs.look("other")
