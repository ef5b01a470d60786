"""The server stands still, refuses, forgets, or lives in another time, one fault a test."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from tests.chaos.arena import Arena
from tests.conftest import IS_CI, TestServer, wait_until

LEASE_S = 1.0
#: More than two seconds between beats, and one until a worker says that it waits.
REFUSES_S = 3.5


@contextmanager
def long_samples(arena: Arena, lease_s: float = LEASE_S, sleep_s: float = 2) -> Iterator[None]:
    """Samples that run while something happens; afterwards none has run twice, and none is lost."""
    study = arena.queue_chain(12, sleep_s)
    for _ in range(2):
        arena.work(lease_s=lease_s, slots=3)
    arena.wait_ran(6)
    yield
    arena.assert_whole(study, 12, is_once=True)


@pytest.mark.slow
def test_server_frozen_for_ten_leases_makes_nothing_run_twice(arena: Arena) -> None:
    with long_samples(arena):
        arena.freeze_server(10 * LEASE_S)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_server_away_for_ten_leases_makes_nothing_run_twice(arena: Arena, how: int) -> None:
    with long_samples(arena):
        arena.restart_server(how, 10 * LEASE_S)


@pytest.mark.slow
def test_server_paused_for_ten_leases_makes_nothing_run_twice(arena: Arena) -> None:
    with long_samples(arena):
        arena.ask("CLIENT", "PAUSE", round(10_000 * LEASE_S), "ALL")
        time.sleep(10 * LEASE_S)  # the fault itself


@pytest.mark.parametrize("by_s", [pytest.param(3600, marks=pytest.mark.slow), -3600])
def test_server_whose_clock_is_stepped_by_an_hour_makes_nothing_run_twice(wound_arena: Arena, by_s: int) -> None:
    with long_samples(wound_arena, sleep_s=1.2):
        wound_arena.step_clock(by_s)


def become_a_replica(arena: Arena) -> None:
    """Nobody is at the primary's address."""
    arena.ask("REPLICAOF", "127.0.0.1", 1)
    time.sleep(REFUSES_S)  # the fault itself
    arena.ask("REPLICAOF", "NO", "ONE")


def be_busy(arena: Arena) -> None:
    """Somebody else's script does not end."""
    arena.ask("CONFIG", "SET", "busy-reply-threshold", 50)

    def never_end() -> None:
        with pytest.raises(ResponseError):
            arena.ask("EVAL", "while true do end", 0)

    endless = threading.Thread(target=never_end)
    endless.start()
    time.sleep(REFUSES_S)  # the fault itself
    arena.ask("SCRIPT", "KILL")
    endless.join()


@pytest.mark.parametrize("refuse", [become_a_replica, be_busy])
@pytest.mark.slow
def test_workers_wait_for_a_server_that_refuses_and_say_so(arena: Arena, refuse: Callable[[Arena], None]) -> None:
    with long_samples(arena, lease_s=12):
        refuse(arena)
    assert "server_away" in arena.lab.logs()
    assert "server_back" in arena.lab.logs()


@pytest.mark.slow
def test_study_whose_stream_is_deleted_fails_with_its_reason_and_is_brought_back(arena: Arena) -> None:
    study = arena.queue_chain(60, sleep_s=0.05)
    workspace = arena.lab.study(study)["workspace"]
    arena.work(lease_s=3)
    arena.wait_ran(20)
    arena.ask("DEL", f"{{mrun}}:queue:sim:{study}:0")
    status = arena.lab.wait_for_end(study)
    assert status["state"] == "failed", status
    assert "lost" in status["why"]
    arena.lab.mrun("wait", study, code=7)
    arena.assert_whole(arena.lab.json("restart", workspace)["queued"]["study"], 60, is_once=True)


@pytest.mark.slow
def test_group_that_is_destroyed_troubles_nobody(arena: Arena) -> None:
    study = arena.queue_chain(60, sleep_s=0.05)
    arena.ask("XGROUP", "DESTROY", f"{{mrun}}:queue:sim:{study}:0", "workers")
    assert arena.lab.json("inspect")["queues"][0]["ready"] == 60
    arena.work(lease_s=3)
    arena.assert_whole(study, 60, is_once=True)


@pytest.mark.slow
def test_full_server_refuses_a_new_study_and_lets_what_runs_end(arena: Arena) -> None:
    study = arena.queue_chain(60, sleep_s=0.05)
    arena.work(lease_s=3)
    arena.wait_ran(10)
    arena.ask("CONFIG", "SET", "maxmemory", 1)
    arena.lab.mrun("queue", arena.lab.directory / "spec.yaml", code=5)
    arena.assert_whole(study, 60, is_once=True)
    assert len(arena.lab.json("status", "all")) == 1


@contextmanager
def small_disk(directory: Path, size_kb: int) -> Iterator[None]:
    """A disk of its own at `directory`; needs root."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    words = ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "mrun-test", str(directory)]
    mounted = subprocess.run(words, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        if IS_CI:
            pytest.fail(f"root can't mount a small disk, and CI must: {mounted.stderr}")
        pytest.skip(f"root can't mount a small disk here: {mounted.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(path: Path) -> None:
    """Take all room that is left on a disk."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


@pytest.mark.slow
def test_workers_wait_while_the_servers_disk_is_full(tmp_path: Path) -> None:
    server = TestServer("valkey")
    try:
        with small_disk(server.directory, 4096):
            server.start()
            with Arena(tmp_path, server) as arena:
                study = arena.queue_chain(40, sleep_s=0.05)
                arena.work(lease_s=20)
                arena.wait_ran(10)
                # When the append-only file can't grow
                fill(server.directory / "filler")
                wait_until(lambda: "server_away" in arena.lab.logs(), lambda: f"the worker says so\n{arena.lab.logs()}")
                assert "disk" in arena.lab.logs()
                (server.directory / "filler").unlink()
                # I expect it to go on once there is room
                arena.assert_whole(study, 40, is_once=True)
            server.stop()
    finally:
        server.remove()


@pytest.mark.slow
def test_worker_refuses_a_study_whose_disk_is_full_from_the_beginning_and_goes_on_with_others(arena: Arena) -> None:
    disk = arena.lab.directory / "disk"
    disk.mkdir()
    with small_disk(disk, 2048):
        full = arena.queue_chain(5, 0.05, "retry_delay: 0", "-o", disk, "--priority", 5)
        healthy = arena.lab.queue(arena.lab.directory / "spec.yaml")
        fill(disk / "filler")
        arena.work(lease_s=3, slots=1)
        arena.lab.wait_for_end(healthy)
        assert "can't be written: No space left" in arena.lab.logs()
        assert arena.lab.study(full)["state"] == "running"
        # Once there is room, another one brings it to its end
        (disk / "filler").unlink()
        arena.work_again()
        arena.lab.wait_for_end(full)
        arena.lab.stop_workers()


@pytest.mark.slow
def test_samples_go_back_while_the_disk_of_the_workspace_is_full(arena: Arena) -> None:
    disk = arena.lab.directory / "disk"
    disk.mkdir()
    with small_disk(disk, 2048):
        study = arena.queue_chain(60, 0.05, "retry_delay: 0", "-o", disk)
        assert str(disk) in arena.lab.study(study)["workspace"]
        worker = arena.work(lease_s=3, slots=1)
        arena.wait_ran(10)
        # When nothing more can be written there
        fill(disk / "filler")
        wait_until(lambda: "study_refused" in arena.lab.logs(), lambda: f"it takes no more\n{arena.lab.logs()}")
        assert "No space left" in arena.lab.logs()
        worker.send_signal(signal.SIGTERM)
        worker.wait(timeout=20)
        status = arena.lab.study(study)
        assert (status["state"], status["by_step"]["a"]["running"]) == ("running", 0)
        # I expect another one to bring it to its end once there is room, and the journal to be whole
        (disk / "filler").unlink()
        arena.work_again()
        arena.assert_whole(study, 60, is_once=False)
        twice = [sample for sample, count in arena.lab.ledger("a").items() if count > 1]
        assert twice == [], twice
        nothing = arena.lab.json("restart", arena.lab.study(study)["workspace"])
        assert nothing["again"] <= 6, "what could not be journaled is all that a restart would run"
        arena.lab.stop_workers()
