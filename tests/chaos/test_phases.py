"""Every end that a worker may meet, in every phase of a sample that is the last of its step."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

import pytest

from tests.chaos.arena import Arena
from tests.conftest import wait_until

LEASE_S = 1.5
Worker = subprocess.Popen[bytes]

#: The request at which the worker is caught, and whether the server has done it; None: in the middle of the sample.
PHASES: dict[str, tuple[str, bool] | None] = {
    "before its claim": ("claim", False),
    "after its claim": ("claim", True),
    "while it runs": None,
    "after its exit": ("settle", False),
    "while it is settled": ("settle", True),
}
#: Where the sample has begun, and the server does not know its end.
UNCOUNTED = ("while it runs", "after its exit")


def kill_engine(arena: Arena, worker: Worker) -> None:
    os.kill(arena.lab.engine_of(worker), signal.SIGKILL)
    worker.wait(timeout=20)


def kill_guard(arena: Arena, worker: Worker) -> None:
    worker.kill()
    worker.wait(timeout=20)
    wait_until(lambda: not arena.lab.leftovers(), "its engine ends with it")


def freeze_engine(arena: Arena, worker: Worker) -> None:
    engine = arena.lab.engine_of(worker)
    os.kill(engine, signal.SIGSTOP)
    arena.later(2 * LEASE_S, lambda: os.kill(engine, signal.SIGCONT))


def freeze_guard(arena: Arena, worker: Worker) -> None:
    worker.send_signal(signal.SIGSTOP)
    arena.later(2 * LEASE_S, lambda: worker.send_signal(signal.SIGCONT))


def tell(arena: Arena, worker: Worker) -> None:
    worker.send_signal(signal.SIGTERM)


def tell_twice(arena: Arena, worker: Worker) -> None:
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: "worker_signalled" in arena.lab.logs(), "the worker drains")
    worker.send_signal(signal.SIGTERM)


def only_break_off(arena: Arena, worker: Worker) -> None:
    """What catching it did is all that happens."""


#: By whether it excuses a second execution where the server does not know the end of the first.
DEADLY = (kill_engine, kill_guard, freeze_engine, tell_twice)
HARMLESS = (freeze_guard, tell, only_break_off)


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("happen", [*DEADLY, *HARMLESS])
def test_worker_that_meets_its_end_in_any_phase_loses_nothing(
    arena: Arena, phase: str, happen: Callable[[Arena, Worker], None]
) -> None:
    # Given a worker that is caught in that phase of a sample which is the last of its step
    study = arena.queue_chain(1, sleep_s=1)
    worker = arena.work(LEASE_S, slots=1)
    caught_at = PHASES[phase]
    if caught_at is None:
        arena.wait_ran(1)
    else:
        move, is_done = caught_at
        arena.hold_at(move, is_done=is_done)
    # When that happens to it, and another one is there
    happen(arena, worker)
    arena.let_go()
    arena.work_again()
    # I expect everything once, but what was running or was not told when its worker ended
    arena.assert_whole(study, 1, is_once=happen in HARMLESS or phase not in UNCOUNTED)
