"""What a worker keeps for a claim that needs much, and how much it lets lie idle for it."""

from __future__ import annotations

import pytest

from mrun.engine.records import Claim, ClaimAnswer, Kept, Waiting
from mrun.engine.resources import Inventory
from mrun.engine.work.affinity import NO_GRANT, Devices
from mrun.engine.work.backfill import IDLE_SHARE_MOST, Backfill
from mrun.engine.work.run import ClaimRun

LARGE = Waiting("q", "s:1", {"slots": 1, "cpus": 4})
OTHER = Waiting("q", "s:2", {"slots": 1, "cpus": 3})


def held(cpus: int, left_ms: float) -> ClaimRun:
    """A claim of one sample that is expected to take so long still."""
    return ClaimRun(Claim(1, "s", 0, 0, 1, 0, 0, 0, pace_ms=left_ms, takes={"slots": 1, "cpus": cpus}))


def answer(*waiting: Waiting, is_kept: bool = False) -> ClaimAnswer:
    return ClaimAnswer("ok", (), 0, -1, 0, waiting, (), int(is_kept))


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("mrun.engine.work.backfill.time", clock)
    return clock


@pytest.fixture
def keeper(clock):
    return Backfill(Inventory(slots=8, cpus=8))


def kept_for(keeper, running) -> str:
    kept = keeper.offer(running).kept
    return kept.stream if kept else ""


def test_nothing_is_kept_where_nothing_waits(keeper):
    room = keeper.offer([held(2, 0)])
    assert room.free == {"slots": 7, "cpus": 6, "jobs": 100}
    assert room.kept is None


def test_who_waits_is_promised_the_moment_when_enough_is_expected_to_be_free(keeper):
    # Given claims that are to end after 1, 2 and 3 seconds, and one free CPU
    running = [held(3, 3000), held(2, 1000), held(2, 2000)]
    keeper.note(answer(LARGE), running)
    # I expect that four are free after two seconds, with one more than is needed
    assert keeper.offer(running).kept == Kept("q", "s:1", {"slots": 5, "cpus": 1, "jobs": 100}, 2000)


def test_claims_of_which_nobody_knows_how_long_they_take_may_end_at_any_moment(keeper):
    running = [held(5, 0), held(3, 9000)]
    keeper.note(answer(LARGE), running)
    kept = keeper.offer(running).kept
    assert (kept.window_ms, kept.spare["cpus"]) == (0, 0)


def test_a_promise_stays_with_who_got_it_as_long_as_it_waits(keeper):
    running = [held(7, 1000)]
    keeper.note(answer(LARGE), running)
    keeper.note(answer(LARGE), running)
    assert kept_for(keeper, running) == "s:1"
    keeper.note(answer(OTHER), running)
    assert kept_for(keeper, running) == "s:2"
    keeper.note(answer(), running)
    assert kept_for(keeper, running) == ""


def test_what_lay_idle_for_a_promise_is_paid_off_before_the_next(keeper, clock):
    running = [held(6, 1000)]
    keeper.note(answer(LARGE), running)
    # Given that a quarter of the worker lies idle for a second, because others are kept from it
    keeper.note(answer(LARGE, is_kept=True), running)
    clock.now = 1.0
    keeper.note(answer(), running)
    # When somebody waits I expect no promise before the worker has been full for as long as makes that a twentieth
    debt_s = 0.25 - IDLE_SHARE_MOST
    clock.now += debt_s / IDLE_SHARE_MOST - 0.1
    keeper.note(answer(LARGE), running)
    assert kept_for(keeper, running) == ""
    clock.now += 0.2
    keeper.note(answer(LARGE), running)
    assert kept_for(keeper, running) == "s:1"


def test_what_is_free_because_nobody_wants_it_costs_nothing(keeper, clock):
    running = [held(6, 1000)]
    keeper.note(answer(LARGE), running)
    clock.now = 100.0
    keeper.note(answer(LARGE), running)
    keeper.note(answer(OTHER), running)
    assert kept_for(keeper, running) == "s:2"


def test_places_are_given_out_once_at_a_time():
    places = Devices(Inventory(8, 8, 2, has_told_cpus=True, cpu_places=tuple(range(90, 98)), gpu_places=("3", "7")))
    first = places.grant({"cpus": 2, "gpus": 1}, [])
    second = places.grant({"cpus": 1, "gpus": 1}, [first])
    assert (first.cpus, first.gpus, second.cpus, second.gpus) == ((90, 91), ("3",), (92,), ("7",))
    assert first.variables == {
        b"MRUN_CPUS": b"90,91", b"MRUN_GPUS": b"3", b"CUDA_VISIBLE_DEVICES": b"3", b"ROCR_VISIBLE_DEVICES": b"3",
    }  # fmt: skip
    # CPUs that are not on this machine are told, and nothing is bound to them
    assert not first.is_pinned
    assert places.grant({"cpus": 2}, [second]).cpus == (90, 91)


def test_gpus_are_hidden_only_where_they_were_told():
    told = Devices(Inventory(8, 8, 1, has_told_gpus=True, gpu_places=("0",)))
    assert told.grant({"cpus": 1}, []).variables[b"CUDA_VISIBLE_DEVICES"] == b""
    found = Devices(Inventory(8, 8, 1, gpu_places=("0",)))
    assert found.grant({"cpus": 1}, []) is NO_GRANT
    assert found.grant({"gpus": 1}, []).variables[b"CUDA_VISIBLE_DEVICES"] == b"0"
