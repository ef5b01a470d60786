"""`mrun queue` and `mrun run` on a server that refuses or forgets, on a full disk, and in another time."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.arena import Arena, fake_time
from tests.chaos.test_commands import lay_out, studies
from tests.chaos.test_server import be_busy, become_a_replica, fill, small_disk
from tests.conftest import wait_until


def assert_nothing_stays(arena: Arena) -> None:
    """No study is seen, and what was laid down for one expires."""
    assert studies(arena) == []
    client = arena.server.client()
    assert [key for key in client.scan_iter("{mrun}:2:study:*", count=1000) if client.ttl(key) <= 0] == []


@pytest.mark.slow
def test_queue_whose_server_becomes_a_replica_says_so_and_leaves_nothing(arena: Arena) -> None:
    # Given one that has laid its plan down
    queue = arena.lab.start("queue", lay_out(arena, samples=5))
    arena.hold_at("submit", is_done=True)
    # When nothing more may be written
    arena.ask("REPLICAOF", "127.0.0.1", 1)
    arena.let_go()
    queue.communicate(timeout=30)
    arena.ask("REPLICAOF", "NO", "ONE")
    assert queue.returncode == 5
    assert_nothing_stays(arena)


@pytest.mark.slow
@pytest.mark.parametrize(("move", "is_done", "code"), [("submit", True, 0), ("commit", False, 4)])
def test_queue_whose_server_is_emptied_queues_a_whole_study_or_says_that_there_is_none(
    arena: Arena, move: str, is_done: bool, code: int
) -> None:
    # Given one that was not told that its plan is there, and asks again; or one that was told
    queue = arena.lab.start("queue", lay_out(arena, samples=5))
    arena.hold_at(move, is_done=is_done)
    # When the server forgets it
    arena.ask("FLUSHALL")
    arena.let_go()
    queue.communicate(timeout=30)
    assert queue.returncode == code
    if code:
        assert_nothing_stays(arena)
    else:
        (study,) = studies(arena)
        arena.work(lease_s=3)
        arena.assert_whole(study, 5, is_once=True)


@pytest.mark.slow
def test_queue_into_a_full_disk_says_so_and_leaves_nothing(arena: Arena) -> None:
    disk, spec = arena.lab.directory / "disk", lay_out(arena, samples=5)
    disk.mkdir()
    with small_disk(disk, 256):
        fill(disk / "filler")
        arena.lab.mrun("queue", spec, "-o", disk, code=3)
        assert_nothing_stays(arena)
        # And once there is room, it is queued
        (disk / "filler").unlink()
        study = arena.lab.queue(Path(spec), "-o", disk)
        arena.work(lease_s=3)
        arena.assert_whole(study, 5, is_once=True)
        arena.lab.stop_workers()


@pytest.mark.slow
@pytest.mark.parametrize("refuse", [become_a_replica, be_busy])
def test_run_waits_for_a_server_that_refuses(arena: Arena, refuse: Callable[[Arena], None]) -> None:
    run = arena.lab.start("run", lay_out(arena, sleep_s=0.1), "--slots", 2, "--lease", 12)
    arena.wait_ran(8)
    refuse(arena)
    run.communicate(timeout=60)
    assert run.returncode == 0
    (study,) = studies(arena)
    arena.assert_whole(study, 40, is_once=True)


@pytest.mark.slow
def test_run_on_a_disk_that_becomes_full_refuses_its_study_and_leaves_it_to_others(arena: Arena) -> None:
    disk, spec = arena.lab.directory / "disk", lay_out(arena, samples=60)
    disk.mkdir()
    with small_disk(disk, 2048):
        run = arena.lab.start("run", spec, "-o", disk, "--slots", 1, "--lease", 3)
        arena.wait_ran(10)
        fill(disk / "filler")
        run.communicate(timeout=60)
        assert run.returncode == 6
        (study,) = studies(arena)
        assert arena.lab.study(study)["state"] == "running"
        # Once there is room, whoever comes brings it to its end
        (disk / "filler").unlink()
        arena.work(lease_s=3)
        arena.assert_whole(study, 60, is_once=False)
        arena.lab.stop_workers()


@pytest.mark.slow
@pytest.mark.parametrize("by", ["-1h", "+1h"])
def test_commands_of_a_host_whose_clock_is_an_hour_off_do_as_ever(arena: Arena, by: str) -> None:
    # Given a host whose commands and workers live in another time than the server
    arena.lab.environment |= fake_time() | {"FAKETIME": by}
    run = arena.lab.start("run", lay_out(arena, sleep_s=0.1), "--slots", 2, "--lease", 2)
    arena.wait_ran(8)
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=30)
    assert run.returncode == 143
    (study,) = studies(arena)
    arena.work(lease_s=2)
    arena.assert_whole(study, 40, is_once=True)
    wait_until(lambda: arena.lab.json("wait", study)[0]["state"] == "finished", "a command says so")
