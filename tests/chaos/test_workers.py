"""Workers that are told to end, cut off, or killed in the worst moment, one fault a test."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.chaos.arena import Arena, fake_time, function_of
from tests.chaos.proxy import Proxy
from tests.conftest import wait_until


def kill_at_settle(arena: Arena, worker: subprocess.Popen[bytes]) -> None:
    """The server does the next settle; its answer is lost, and the worker is killed before it can say anything else."""
    arena.hold_at("settle", is_done=True)
    os.kill(arena.lab.engine_of(worker), signal.SIGKILL)
    worker.wait(timeout=20)
    arena.let_go()


def told_twice(arena: Arena, worker: subprocess.Popen[bytes]) -> int:
    """SIGTERM, and once it drains, SIGTERM again; its exit code."""
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: "worker_signalled" in arena.lab.logs(), "the worker drains")
    worker.send_signal(signal.SIGTERM)
    return worker.wait(timeout=20)


@pytest.mark.parametrize("how", ["killed", pytest.param("frozen", marks=pytest.mark.slow)])
def test_worker_told_twice_while_the_server_is_away_ends_and_journals_what_it_could_not_tell(
    arena: Arena, how: str
) -> None:
    # Given a worker that goes on while its server is away
    study = arena.queue_chain(30, sleep_s=0.08, more="chunk: 10")
    workspace = arena.lab.workspaces[study]
    worker = arena.work(lease_s=60, slots=2)
    arena.wait_ran(3)
    assert arena.server.process is not None
    arena.server.process.send_signal(signal.SIGSTOP if how == "frozen" else signal.SIGKILL)
    arena.wait_ran(10)
    # When it is told twice to stop
    code = told_twice(arena, worker)
    # I expect it to end, to say what it could not do, and to leave nothing running
    assert code == 5, arena.lab.logs()
    assert "could not tell the server" in arena.lab.logs()
    wait_until(lambda: not arena.lab.leftovers(), "nothing is left over")
    # And when the server comes back without anything, the journals know what had ended
    arena.server.stop(signal.SIGKILL)
    arena.server.start()
    arena.ask("FLUSHALL")
    again = arena.lab.json("restart", workspace)["queued"]["study"]
    ran = arena.lab.ledger("a")
    arena.work_again()
    arena.assert_whole(again, 30, is_once=False)
    twice = [sample for sample in ran if arena.lab.ledger("a")[sample] > 1]
    # Only those that were running when it was told; the last one before the stop of each slot may be among them.
    assert len(twice) <= 2, twice


def test_worker_told_to_stop_before_the_server_knows_it_ends_at_once(arena: Arena) -> None:
    for _ in range(1000):
        arena.proxy.lose_reply(function_of("beat"))
    worker = arena.work(lease_s=30)
    wait_until(lambda: len(arena.proxy.lost) > 2, "it tries to beat")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=10) == 0, arena.lab.logs()


def test_settle_of_the_last_sample_of_each_step_counts_when_its_answer_and_its_worker_are_lost(arena: Arena) -> None:
    # Given a study whose every settle is the last of its step
    study = arena.queue_chain(1)
    # When each is done, not answered, and its worker killed
    for _ in "abf":
        kill_at_settle(arena, arena.work(lease_s=1))
    # I expect that nothing is to be done again
    arena.assert_whole(study, 1, is_once=True)


@pytest.mark.slow
def test_release_of_many_nodes_goes_on_when_its_executor_is_killed_between_two_parts(arena: Arena) -> None:
    # Given a step whose end releases more nodes than one move can put
    rows = ", ".join(map(str, range(500)))
    study = arena.lab.queue(
        arena.lab.spec(f"""
        description: {{name: wide, description: one to many}}
        global.parameters:
            P: {{values: [{rows}], label: P.%%}}
        study:
            - name: a
              description: the one
              run: {{cmd: "echo a >> $LEDGER/a", task_queue: sim}}
            - name: b
              description: the many
              run: {{cmd: "echo $(P) >> $LEDGER/b", depends: [a], task_queue: other}}
        """)
    )
    kill_at_settle(arena, arena.work(lease_s=1))
    # When somebody else comes
    ready = arena.lab.study(study)["by_step"]["b"]["ready"]
    arena.work(lease_s=1)
    # I expect the rest to be released, and nothing twice
    wait_until(lambda: arena.lab.study(study)["by_step"]["b"]["ready"] == 500, "all are released")
    assert 0 < ready < 500
    arena.lab.work("--queues", "other", "--slots", "4")
    assert arena.lab.wait_for_end(study)["by_step"]["b"]["finished"] == 500
    assert sorted(arena.lab.ledger("b").values()) == [1] * 500
    assert arena.lab.ledger("a") == {"a": 1}


@pytest.mark.slow
def test_worker_cut_off_for_longer_than_its_lease_ends_what_it_lost_and_settles_nothing(arena: Arena) -> None:
    # Given a worker with a connection of its own, in the middle of a sample
    study = arena.queue_chain(1, sleep_s=4)
    with Proxy(arena.server.directory / "q", arena.server.socket) as own:
        everybody = arena.lab.environment["MRUN_BROKER"]
        arena.lab.environment["MRUN_BROKER"] = own.url
        arena.work(lease_s=1)
        arena.lab.environment["MRUN_BROKER"] = everybody
        arena.wait_ran(1)
        # When it is cut off, and another one takes over
        own.is_hole = True
        arena.work(lease_s=1)
        arena.wait_ran(2)
        own.is_hole = False
        # I expect it to hear of its loss, to settle nothing, and to go on
        wait_until(lambda: "claim_lost" in arena.lab.logs(), "the first one hears of its loss")
        arena.assert_whole(study, 1, is_once=False)
        assert arena.lab.ledger("a") == {"0": 2}
        assert len(arena.alive()) == 2
        arena.lab.stop_workers()


def test_after_flushall_workers_say_how_to_bring_the_study_back_and_what_had_finished_is_not_run_again(
    arena: Arena,
) -> None:
    study = arena.queue_chain(40, sleep_s=0.08)
    workspace = arena.lab.workspaces[study]
    arena.work(lease_s=5)
    arena.wait_ran(15)
    # When somebody empties the server
    arena.ask("FLUSHALL")
    wait_until(lambda: "study_gone" in arena.lab.logs(), lambda: f"it is said\n{arena.lab.logs()}")
    assert f"mrun restart {workspace}" in arena.lab.logs()
    wait_until(lambda: not [line for line in arena.lab.leftovers() if "sleep" in line], "what ran is ended")
    # I expect the same workers to go on with it once it is back, and to run what had not finished
    ran = arena.lab.ledger("a")
    again = arena.lab.json("restart", workspace)["queued"]["study"]
    arena.assert_whole(again, 40, is_once=False)
    twice = [sample for sample in ran if arena.lab.ledger("a")[sample] > 1]
    assert len(twice) <= 2, f"more than what was running: {twice}"


@pytest.mark.slow
@pytest.mark.parametrize("hours", [-1, 1])
def test_worker_whose_clock_is_an_hour_off_works_beside_others(arena: Arena, hours: int) -> None:
    study = arena.queue_chain(40, sleep_s=0.05)
    ours = arena.lab.environment
    arena.lab.environment = ours | fake_time() | {"FAKETIME": f"{hours:+d}h"}
    wrong = arena.work(lease_s=3)
    arena.lab.environment = ours
    arena.work(lease_s=3)
    wait_until(lambda: "worker_started" in Path(arena.lab.directory, "worker-0.log").read_text(), "the wrong one works")
    arena.assert_whole(study, 40, is_once=True)
    assert wrong.poll() is None
