"""Long samples on a server that is away, and a worker that dies; at any lease, and several outages at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.chaos.arena import Arena
from tests.conftest import TestServer, wait_until

#: Leases for which the server is away; a sample that runs longer than that is running when it comes back.
AWAY_LEASES, RUNS_LEASES = 10, 12
#: What happens, given the seconds for which the server is to be away.
Outage = Callable[[Arena, float], None]


def frozen(arena: Arena, away_s: float) -> None:
    arena.freeze_server(away_s)


def killed(arena: Arena, away_s: float) -> None:
    arena.restart_server(signal.SIGKILL, away_s)


def told(arena: Arena, away_s: float) -> None:
    arena.restart_server(signal.SIGTERM, away_s)


def paused(arena: Arena, away_s: float) -> None:
    arena.ask("CLIENT", "PAUSE", round(1000 * away_s), "ALL")
    time.sleep(away_s)  # the outage itself


def set_forward(arena: Arena, away_s: float) -> None:
    arena.step_clock(3600)


def set_back(arena: Arena, away_s: float) -> None:
    arena.step_clock(-3600)


def assert_nothing_runs_twice(directory: Path, lease_s: float, outages: Sequence[Outage]) -> None:
    """Each outage on a server of its own, with two workers that run a sample which is longer than the outage."""

    def lane(outage: Outage) -> None:
        own_dir = directory / outage.__name__
        own_dir.mkdir()
        server = TestServer("valkey")
        try:
            clock = Arena.wind(server) if outage in (set_forward, set_back) else None
            server.start()
            with Arena(own_dir, server, clock) as arena:
                study = arena.queue_chain(2, sleep_s=RUNS_LEASES * lease_s)
                for _ in range(2):
                    arena.work(lease_s, slots=1)
                arena.wait_ran(2)
                outage(arena, AWAY_LEASES * lease_s)
                arena.assert_whole(study, 2, is_once=True, timeout_s=90 + RUNS_LEASES * lease_s)
        finally:
            server.remove()

    with ThreadPoolExecutor(len(outages)) as pool:
        # All of them, whatever becomes of the first.
        ended = [pool.submit(lane, outage) for outage in outages]
    for one in ended:
        one.result()


def assert_taken_over_in_time(arena: Arena, lease_s: float) -> None:
    """A worker is killed, and its sample runs elsewhere within one and a half leases."""
    # Given a worker in the middle of a sample, and another one without work
    study = arena.queue_chain(1, sleep_s=2)
    victim = arena.work(lease_s, slots=1)
    arena.wait_ran(1)
    arena.work(lease_s, slots=1)
    wait_until(lambda: arena.ask("ZCARD", "{mrun}:2:workers") == 2, "the server knows both")
    # When the first is killed
    os.kill(arena.lab.engine_of(victim), signal.SIGKILL)
    killed_at = time.monotonic()
    # I expect the other one to begin in time
    arena.wait_ran(2, timeout_s=3 * lease_s)
    took_s = time.monotonic() - killed_at
    assert took_s <= 1.5 * lease_s, f"{took_s:.1f} s with a lease of {lease_s} s\n{arena.lab.logs()}"
    arena.assert_whole(study, 1, is_once=False)
    assert arena.lab.ledger("a") == {"0": 2}
