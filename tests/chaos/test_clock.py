"""Clocks are set while something waits: the server's, and a worker's own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.chaos.arena import Arena, fake_time
from tests.conftest import wait_until

HOUR_S = 3600
#: A worker drains a minute before the end of its allocation.
DRAIN_BEFORE_S = 60


@pytest.mark.slow
@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
def test_retries_run_soon_after_the_servers_clock_was_set(wound_arena: Arena, by_s: int) -> None:
    arena = wound_arena
    # Given samples that fail at first, and are to run again in three seconds
    once = "[ -e $LEDGER/again.$(P) ] || { touch $LEDGER/again.$(P); exit 104; }"
    study = arena.lab.queue(
        arena.lab.spec(f"""
        description: {{name: again, description: runs twice}}
        global.parameters:
            P: {{values: [1, 2, 3], label: P.%%}}
        study:
            - name: a
              description: fails once
              run: {{cmd: "{once}", task_queue: sim, retry_delay: 3}}
        """)
    )
    arena.work(lease_s=4)
    wait_until(lambda: arena.lab.study(study)["by_step"]["a"]["retrying"] == 3, "all wait for their retry")
    # When the clock is set
    arena.step_clock(by_s)
    # I expect them to run in seconds, not in an hour
    assert arena.lab.wait_for_end(study, timeout_s=20)["by_step"]["a"]["finished"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
def test_tender_that_dies_as_the_clock_is_set_is_followed_by_another(wound_arena: Arena, by_s: int) -> None:
    arena = wound_arena
    study = arena.queue_chain(2, sleep_s=3)
    tender = arena.work(lease_s=2, slots=1)
    arena.wait_ran(1)
    arena.work(lease_s=2, slots=1)
    arena.wait_ran(2)
    # When the one that tends dies, and the clock is set
    os.kill(arena.lab.engine_of(tender), signal.SIGKILL)
    arena.step_clock(by_s)
    # I expect the other one to find it, and to run its sample
    arena.assert_whole(study, 2, is_once=False, timeout_s=30)


def own_clock(arena: Arena) -> Path:
    """From now on workers have a clock of their own, which this file sets."""
    clock = arena.lab.directory / "clock"
    clock.write_text("+0\n")
    arena.lab.environment |= fake_time() | {"FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    return clock


def test_walltime_is_kept_by_a_worker_whose_clock_is_set_back(arena: Arena) -> None:
    # Given an idle worker that is to drain in some seconds
    everybody = dict(arena.lab.environment)
    clock = own_clock(arena)
    began = time.monotonic()
    worker = arena.work(30, 1, "--walltime", DRAIN_BEFORE_S + 4)
    arena.lab.environment = everybody
    wait_until(lambda: "worker_started" in arena.lab.logs(), "it works")
    # When its clock is set back
    clock.write_text(f"{-HOUR_S:+d}\n")
    # I expect it to go when it was to go
    assert worker.wait(timeout=15) == 0, arena.lab.logs()
    assert time.monotonic() - began >= 4


@pytest.mark.slow
def test_worker_whose_clock_is_set_forward_has_as_much_time_as_before(arena: Arena) -> None:
    everybody = dict(arena.lab.environment)
    clock = own_clock(arena)
    worker = arena.work(30, 2, "--walltime", DRAIN_BEFORE_S + 600)
    arena.lab.environment = everybody
    wait_until(lambda: arena.lab.json("inspect")["workers"], "the worker is known")
    clock.write_text(f"{HOUR_S:+d}\n")
    study = arena.queue_chain(20)
    arena.assert_whole(study, 20, is_once=True)
    assert worker.poll() is None, arena.lab.logs()
