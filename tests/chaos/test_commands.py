"""`mrun queue` and `mrun run` are killed, told, stopped, and cut off, and their server breaks meanwhile."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable

import numpy as np
import pytest

from tests.chaos.arena import CHAIN, Arena, chaos_random, function_of
from tests.chaos.faults import OF_THE_SERVER, Fault, full_memory, half_open, lose_many_replies
from tests.conftest import wait_until


def lay_out(arena: Arena, samples: int = 40, sleep_s: float = 0.05) -> str:
    """The chain's spec, not queued."""
    np.save(arena.lab.directory / "samples.npy", np.arange(float(samples)))
    return str(arena.lab.spec(CHAIN.format(sleep_s=sleep_s, more="retry_delay: 0")))


def studies(arena: Arena) -> list[str]:
    return [status["study"] for status in arena.lab.json("status", "all")]


@pytest.mark.slow
def test_killed_queue_leaves_a_whole_study_or_none(arena: Arena) -> None:
    # Given how long one takes
    random, spec = chaos_random(), lay_out(arena, samples=5)
    began = time.monotonic()
    arena.lab.queue(spec)
    takes_s = time.monotonic() - began
    # When others are killed in random moments
    for _ in range(8):
        queue = arena.lab.start("queue", spec)
        time.sleep(random.uniform(takes_s / 2, takes_s))  # the moment itself is random: nothing is waited for
        queue.kill()
        queue.communicate()
    # I expect what is seen to be whole, and what is not to expire
    seen = studies(arena)
    for key in arena.server.client().scan_iter("{mrun}:2:study:*", count=1000):
        name = key.decode().split(":")[3]
        assert name in seen or arena.server.client().ttl(key) > 0, key
    arena.work(lease_s=3)
    for study in seen:
        status = arena.lab.wait_for_end(study)
        assert [step["finished"] for step in status["steps"]] == [5, 5, 1], status
    assert arena.ran("a") == 5 * len(seen)


#: The request of `mrun queue` at which it is caught, and whether the server has done it.
SUBMITTING = {
    "before its plan is there": ("submit", False),
    "when its plan is there": ("submit", True),
    "before its commit": ("commit", False),
    "after its commit": ("commit", True),
}


#: What a command outwaits, after a connection that broke. It is refused by a full server, and gives up when two answers
#: in a row do not come, or it was disconnected ten times.
BRIEF = [fault for fault in OF_THE_SERVER if fault not in (full_memory, half_open, lose_many_replies)]


@pytest.mark.slow
@pytest.mark.parametrize("phase", SUBMITTING)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_queue_that_is_caught_in_any_phase_leaves_a_whole_study_or_none(arena: Arena, phase: str, how: int) -> None:
    # Given one whose connection breaks in that phase
    queue = arena.lab.start("queue", lay_out(arena, samples=5))
    move, is_done = SUBMITTING[phase]
    arena.hold_at(move, is_done=is_done)
    # When it is killed, told to end, or stopped for longer than it waits for a server
    queue.send_signal(how)
    if how == signal.SIGSTOP:
        arena.later(3, lambda: queue.send_signal(signal.SIGCONT))
    arena.let_go()
    queue.communicate(timeout=30)
    # I expect a study only if it goes on or had committed it, and that one whole
    seen, goes_on = studies(arena), how == signal.SIGSTOP
    assert queue.returncode == (0 if goes_on else -how)
    assert len(seen) == int(goes_on or phase == "after its commit")
    if seen:
        arena.work(lease_s=3)
        arena.assert_whole(seen[0], 5, is_once=True)


@pytest.mark.slow
@pytest.mark.parametrize("fault", BRIEF)
def test_queue_during_a_fault_of_the_server_or_the_network_queues_one_study(wound_arena: Arena, fault: Fault) -> None:
    # Given one that has laid its plan down, of which it was not told
    arena = wound_arena
    queue = arena.lab.start("queue", lay_out(arena, samples=5))
    arena.hold_at("submit", is_done=True)
    arena.let_go()
    # When that happens for less time than a command waits
    fault(arena, chaos_random())
    out, _ = queue.communicate(timeout=30)
    assert queue.returncode == 0, out
    (study,) = studies(arena)
    arena.work(lease_s=3)
    arena.assert_whole(study, 5, is_once=True)


@pytest.mark.slow
def test_queue_on_a_half_open_connection_queues_one_study(arena: Arena) -> None:
    # Given connections that stand, and on which a request and an answer never come
    arena.proxy.breaks = False
    arena.proxy.lose_request(function_of("submit"))
    arena.proxy.lose_reply(function_of("commit"))
    study = arena.lab.queue(lay_out(arena, samples=5))
    assert len(arena.proxy.lost) == 2
    assert studies(arena) == [study]
    arena.work(lease_s=3)
    arena.assert_whole(study, 5, is_once=True)


def run_and(arena: Arena, harm: Callable[[subprocess.Popen[str]], None]) -> tuple[subprocess.Popen[str], str]:
    """Start `mrun run`, do something to it in the middle; it, and its study."""
    run = arena.lab.start("run", lay_out(arena, sleep_s=0.1), "--slots", 2, "--lease", 2)
    arena.wait_ran(8)
    (study,) = studies(arena)
    harm(run)
    return run, study


@pytest.mark.slow
def test_killed_run_leaves_its_study_to_others(arena: Arena) -> None:
    run, study = run_and(arena, lambda run: run.kill())
    run.communicate()
    # Its worker hears of it, drains, and leaves nothing running
    wait_until(lambda: not arena.lab.leftovers(), "its worker ends")
    assert arena.lab.study(study)["state"] == "running"
    arena.work(lease_s=2)
    arena.assert_whole(study, 40, is_once=True)


@pytest.mark.slow
def test_interrupted_run_says_143_and_leaves_its_study_to_others(arena: Arena) -> None:
    run, study = run_and(arena, lambda run: run.terminate())
    run.communicate(timeout=30)
    assert run.returncode == 143
    arena.work(lease_s=2)
    arena.assert_whole(study, 40, is_once=True)


@pytest.mark.slow
def test_run_that_was_stopped_for_two_leases_comes_to_its_end(arena: Arena) -> None:
    def stop(run: subprocess.Popen[str]) -> None:
        run.send_signal(signal.SIGSTOP)
        time.sleep(4)  # the fault itself: twice the lease
        run.send_signal(signal.SIGCONT)

    run, study = run_and(arena, stop)
    run.communicate(timeout=60)
    assert run.returncode == 0
    arena.assert_whole(study, 40, is_once=True)


@pytest.mark.slow
def test_run_waits_for_a_server_that_is_started_again(arena: Arena) -> None:
    run, study = run_and(arena, lambda run: arena.restart_server(signal.SIGTERM, 0.5))
    run.communicate(timeout=60)
    assert run.returncode == 0
    arena.assert_whole(study, 40, is_once=True)


@pytest.mark.slow
def test_run_survives_every_fault_of_the_server_and_the_network(wound_arena: Arena) -> None:
    arena, random = wound_arena, chaos_random()
    faults = random.sample(OF_THE_SERVER, len(OF_THE_SERVER))
    run = arena.lab.start("run", lay_out(arena, samples=160, sleep_s=0.1), "--slots", 2, "--lease", 12)
    for number, fault in enumerate(faults):
        arena.wait_ran(8 + number * 8)
        fault(arena, random)
    run.communicate(timeout=90)
    assert run.returncode == 0
    (study,) = studies(arena)
    arena.assert_whole(study, 160, is_once=True)


@pytest.mark.slow
def test_run_whose_server_is_emptied_says_so_and_is_brought_back(arena: Arena) -> None:
    run, _ = run_and(arena, lambda run: arena.ask("FLUSHALL"))
    run.communicate(timeout=60)
    # It does not know what became of its study
    assert run.returncode == 4
    wait_until(lambda: not arena.lab.leftovers(), "nothing of it runs on")
    (workspace,) = arena.lab.directory.glob("chain_*")
    again = arena.lab.json("restart", workspace)["queued"]["study"]
    arena.work(lease_s=2)
    arena.assert_whole(again, 40, is_once=False)
    twice = [sample for sample, count in arena.lab.ledger("a").items() if count > 1]
    assert len(twice) <= 2, f"more than what was running: {twice}"
