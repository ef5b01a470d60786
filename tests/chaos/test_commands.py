"""`mrun queue` and `mrun run` are killed, stopped, and told nothing."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable

import numpy as np
import pytest

from tests.chaos.arena import CHAIN, Arena, chaos_random, digest_of
from tests.conftest import wait_until


def lay_out(arena: Arena, samples: int = 40, sleep_s: float = 0.05) -> str:
    """The chain's spec, not queued."""
    np.save(arena.lab.directory / "samples.npy", np.arange(float(samples)))
    return str(arena.lab.spec(CHAIN.format(sleep_s=sleep_s, more="retry_delay: 0")))


def studies(arena: Arena) -> list[str]:
    return [status["study"] for status in arena.lab.json("status", "all")]


@pytest.mark.chaos
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
    for key in arena.server.client().scan_iter("{mrun}:study:*", count=1000):
        name = key.decode().split(":")[2]
        assert name in seen or arena.server.client().ttl(key) > 0, key
    arena.work(lease_s=3)
    for study in seen:
        status = arena.lab.wait_for_end(study)
        assert [step["finished"] for step in status["steps"]] == [5, 5, 1], status
    assert arena.ran("a") == 5 * len(seen)


def test_queue_whose_answers_are_lost_queues_one_study(arena: Arena) -> None:
    spec = lay_out(arena)
    for move in ("submit", "commit", "commit"):
        arena.proxy.lose_reply(digest_of(move))
    study = arena.lab.queue(spec)
    assert len(arena.proxy.lost) == 3
    assert studies(arena) == [study]
    arena.work(lease_s=3)
    arena.assert_whole(study, 40, is_once=True)


def run_and(arena: Arena, harm: Callable[[subprocess.Popen[str]], None]) -> tuple[subprocess.Popen[str], str]:
    """Start `mrun run`, do something to it in the middle; it, and its study."""
    run = arena.lab.start("run", lay_out(arena, sleep_s=0.1), "--slots", 2, "--lease", 2)
    arena.wait_ran(8)
    (study,) = studies(arena)
    harm(run)
    return run, study


@pytest.mark.chaos
def test_killed_run_leaves_its_study_to_others(arena: Arena) -> None:
    run, study = run_and(arena, lambda run: run.kill())
    run.communicate()
    # Its worker hears of it, drains, and leaves nothing running
    wait_until(lambda: not arena.lab.leftovers(), "its worker ends")
    assert arena.lab.study(study)["state"] == "running"
    arena.work(lease_s=2)
    arena.assert_whole(study, 40, is_once=True)


@pytest.mark.chaos
def test_interrupted_run_says_143_and_leaves_its_study_to_others(arena: Arena) -> None:
    run, study = run_and(arena, lambda run: run.terminate())
    run.communicate(timeout=30)
    assert run.returncode == 143
    arena.work(lease_s=2)
    arena.assert_whole(study, 40, is_once=True)


@pytest.mark.chaos
def test_run_that_was_stopped_for_two_leases_comes_to_its_end(arena: Arena) -> None:
    def stop(run: subprocess.Popen[str]) -> None:
        run.send_signal(signal.SIGSTOP)
        time.sleep(4)  # the fault itself: twice the lease
        run.send_signal(signal.SIGCONT)

    run, study = run_and(arena, stop)
    run.communicate(timeout=60)
    assert run.returncode == 0
    arena.assert_whole(study, 40, is_once=True)


@pytest.mark.chaos
def test_run_waits_for_a_server_that_is_started_again(arena: Arena) -> None:
    run, study = run_and(arena, lambda run: arena.restart_server(signal.SIGTERM, 0.5))
    run.communicate(timeout=60)
    assert run.returncode == 0
    arena.assert_whole(study, 40, is_once=True)
