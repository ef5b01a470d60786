"""Random faults, one by one, in random moments of a study. MRUN_CHAOS_SEED replays the seed that is printed."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest

from tests.chaos.arena import Arena, chaos_random
from tests.chaos.faults import DEADLY, HARMLESS, Fault


def break_things(arena: Arena, random: random.Random, faults: Sequence[Fault], samples: int, times: int) -> list[str]:
    """Spread faults over the study; their names."""
    happened = []
    for number in range(times):
        aim = random.randrange(number * samples // times, (number + 1) * samples // times)
        arena.wait_ran(aim, random.choice("aab"), is_kept_up=True)
        time.sleep(random.uniform(0, 0.05))  # the moment itself is random: nothing is waited for
        if not arena.is_running():
            break
        fault = random.choice(faults)
        happened.append(fault.__name__)
        print(f"{aim:5d} {fault.__name__}")
        fault(arena, random)
    if arena.is_running():
        arena.work_surely()
    return happened


def test_faults_that_excuse_nothing_make_no_sample_run_twice(wound_arena: Arena) -> None:
    arena, random = wound_arena, chaos_random()
    # Given leases longer than any of the faults
    study = arena.queue_chain(200)
    for _ in range(3):
        arena.work(lease_s=12)
    happened = break_things(arena, random, HARMLESS, 200, times=9)
    assert len(happened) >= 4, happened
    arena.assert_whole(study, 200, is_once=True)


def test_kills_in_random_moments_lose_nothing_and_count_nothing_twice(arena: Arena) -> None:
    random = chaos_random()
    study = arena.queue_chain(150, sleep_s=0.12)
    for _ in range(3):
        arena.work(lease_s=1.5)
    happened = break_things(arena, random, (*HARMLESS, *DEADLY, *DEADLY), 150, times=6)
    assert len(happened) >= 2, happened
    arena.assert_whole(study, 150, is_once=False)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_thousand_samples_survive_ten_minutes_of_kills(arena: Arena) -> None:
    random = chaos_random()
    study = arena.queue_chain(10_000, sleep_s=0.5)
    for _ in range(3):
        arena.work(lease_s=2, slots=4)
    happened = break_things(arena, random, (*HARMLESS, *DEADLY), 10_000, times=150)
    assert len(happened) >= 100, happened
    arena.assert_whole(study, 10_000, is_once=False, timeout_s=600)
