"""The worker as users meet it: signals, guards, restarts, nodes on which nothing starts."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import wait_until
from tests.lab import Lab

ONE_STEP = """
    description: {{name: one, description: one step}}
    study:
        - name: a
          description: a step
          run:
              cmd: |
{cmd}
              {options}
    merlin:
        samples: {{file: samples.npy, column_labels: [X]}}
"""


def one_step(lab: Lab, cmd: str, samples: int = 1, options: str = "") -> str:
    np.save(lab.directory / "samples.npy", np.arange(float(samples)))
    lines = "\n".join(" " * 18 + line for line in cmd.splitlines())
    return lab.queue(lab.spec(ONE_STEP.format(cmd=lines, options=options)))


def workspace(lab: Lab, study: str) -> Path:
    return Path(lab.study(study)["workspace"])


def test_killed_engine_takes_daemons_and_sessions_of_its_steps_with_it(lab: Lab) -> None:
    # Given a step whose children run away: in the background, in a session of their own, twice forked
    one_step(lab, "(sleep 600 & setsid sleep 601 & (setsid sleep 602 &) )\necho up >> $LEDGER/up\nsleep 603 # $(X)")
    worker = lab.work("--queues", "merlin", "--lease", "2")
    wait_until(lambda: lab.ledger("up"), "the step runs")
    os.kill(lab.engine_of(worker), signal.SIGKILL)
    # I expect the guard to end with the engine's signal as code, and nothing to be left
    assert worker.wait(timeout=20) == 128 + signal.SIGKILL
    wait_until(lambda: not lab.leftovers(), "nothing is left over")


def test_killed_guard_takes_engine_and_steps_with_it(lab: Lab) -> None:
    study = one_step(lab, "echo up >> $LEDGER/up\nsleep 600 # $(X)")
    worker = lab.work("--queues", "merlin", "--lease", "30")
    wait_until(lambda: lab.ledger("up"), "the step runs")
    worker.kill()
    worker.wait(timeout=20)
    wait_until(lambda: not lab.leftovers(), "nothing is left over")
    # The engine had time to hand its sample back: it need not wait for the lease.
    assert lab.study(study)["by_step"]["a"]["ready"] == 1


def test_killed_process_group_leaves_nothing(lab: Lab) -> None:
    one_step(lab, "echo up >> $LEDGER/up\nsleep 600 # $(X)")
    worker = lab.work("--queues", "merlin")
    wait_until(lambda: lab.ledger("up"), "the step runs")
    # The engine is in a group of its own, so that one signal to the command's group cannot take both.
    assert os.getpgid(lab.engine_of(worker)) != os.getpgid(worker.pid)
    worker.kill()
    worker.wait(timeout=20)
    wait_until(lambda: not lab.leftovers(), "nothing is left over")


def test_first_signal_drains_and_hands_back_what_was_not_started(lab: Lab) -> None:
    study = one_step(lab, "echo $(MERLIN_SAMPLE_ID) >> $LEDGER/a\nsleep 1 # $(X)", 100, "chunk: 50")
    worker = lab.work("--queues", "merlin", "--slots", "1")
    wait_until(lambda: lab.ledger("a"), "a sample runs")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=20) == 0
    step = lab.study(study)["by_step"]["a"]
    assert step["running"] == 0
    assert step["finished"] == len(lab.ledger("a"))
    assert step["ready"] == 100 - step["finished"]
    assert lab.json("inspect")["workers"] == []


@pytest.mark.slow
def test_second_signal_ends_running_samples_and_hands_them_back_to_resume(lab: Lab) -> None:
    study = one_step(
        lab, "echo cmd >> $LEDGER/a\nsleep 60 # $(X)", options="restart: echo resume=$MRUN_RESUME >> $LEDGER/a"
    )
    worker = lab.work("--queues", "merlin")
    wait_until(lambda: lab.ledger("a"), "the sample runs")
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: "worker_signalled" in lab.logs(), "the worker drains")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=20) == 0
    # The attempt was not consumed, and the next execution is told to resume
    lab.work("--queues", "merlin")
    assert lab.wait_for_end(study)["by_step"]["a"]["finished"] == 1
    assert lab.ledger("a") == {"cmd": 1, "resume=1": 1}


@pytest.mark.slow
def test_worker_stopped_past_its_lease_kills_what_it_lost_and_settles_nothing(lab: Lab) -> None:
    # Given a worker that is stopped in the middle of a sample, and another one
    study = one_step(lab, "echo $MRUN_CLAIM >> $LEDGER/a\nsleep 5 # $(X)\necho $MRUN_CLAIM >> $LEDGER/end")
    first = lab.work("--queues", "merlin", "--lease", "1")
    wait_until(lambda: lab.ledger("a"), "the sample runs")
    engine = lab.engine_of(first)
    os.kill(engine, signal.SIGSTOP)
    lab.work("--queues", "merlin", "--lease", "1")
    wait_until(lambda: len(lab.ledger("a")) == 2, "the other worker has taken it over")
    # When it wakes
    os.kill(engine, signal.SIGCONT)
    wait_until(lambda: "claim_lost" in lab.logs(), "the first worker sees its loss")
    status = lab.wait_for_end(study)
    # I expect the sample to be counted once, by the second, and the first one's process not to have come to its end
    assert status["by_step"]["a"]["finished"] == 1
    assert len(lab.ledger("end")) == 1
    out_files = sorted(path.name for path in workspace(lab, study).joinpath("a").iterdir())
    assert len([name for name in out_files if ".out.lost-" in name]) == 1, out_files


def test_lost_sample_resumes_by_its_restart_script(lab: Lab) -> None:
    study = one_step(
        lab, "echo cmd >> $LEDGER/a\nsleep 60 # $(X)", options="restart: echo resume=$MRUN_RESUME >> $LEDGER/a"
    )
    worker = lab.work("--queues", "merlin", "--lease", "1")
    wait_until(lambda: lab.ledger("a"), "the sample runs")
    os.kill(lab.engine_of(worker), signal.SIGKILL)
    lab.work("--queues", "merlin", "--lease", "1")
    assert lab.wait_for_end(study)["by_step"]["a"]["finished"] == 1
    assert lab.ledger("a") == {"cmd": 1, "resume=1": 1}


@pytest.mark.slow
@pytest.mark.parametrize("dies", ["engine", "both"])
def test_retry_of_a_sample_that_once_lost_its_worker_runs_cmd(lab: Lab, dies: str) -> None:
    # Given a sample whose worker was killed under it, and that then asks to be tried again
    restart = "echo restart${MRUN_RESUME:-0} >> $LEDGER/a; exit 104"
    cmd = "echo cmd${MRUN_RESUME:-0} >> $LEDGER/a\n[ $MRUN_ATTEMPT = 0 ] || exit 0\nsleep 5 # $(X)"
    study = one_step(lab, cmd, options=f"restart: '{restart}'\n              retry_delay: 0")
    worker = lab.work("--queues", "merlin", "--lease", "1", "--slots", "1")
    wait_until(lambda: lab.ledger("a")["cmd0"], "it runs")
    engine = lab.engine_of(worker)
    if dies == "both":
        os.kill(worker.pid, signal.SIGSTOP)
        worker.kill()
    os.kill(engine, signal.SIGKILL)
    lab.work("--queues", "merlin", "--lease", "1", "--slots", "1")
    # I expect the loss to be answered by `restart`, and what ended by itself with 104 by `cmd`
    lab.wait_for_end(study)
    assert lab.ledger("a") == {"cmd0": 2, "restart1": 1}


@pytest.mark.slow
def test_cancelled_study_stops_its_running_samples_within_three_seconds(lab: Lab) -> None:
    study = one_step(lab, "echo up >> $LEDGER/a\nsleep 600 # $(X)", 10)
    lab.work("--queues", "merlin", "--slots", "2")
    wait_until(lambda: lab.ledger("a")["up"] >= 2, "two samples run")
    lab.mrun("cancel", study)
    began = time.monotonic()
    status = lab.wait_for_end(study, 10)
    assert status["state"] == "cancelled"
    assert status["by_step"]["a"]["cancelled"] == 10
    wait_until(lambda: not [line for line in lab.leftovers() if "sleep" in line], "the samples are gone", 3)
    assert time.monotonic() - began < 10


def test_samples_that_cannot_be_started_keep_their_attempt_and_the_worker_refuses_the_study(lab: Lab) -> None:
    study = one_step(lab, "true $(X)", 10, "shell: /no/such/shell")
    worker = lab.work("--queues", "merlin", "--slots", "1", "--exit-when-done")
    # With nothing else to do, the worker says so and exits
    assert worker.wait(timeout=30) == 6
    assert "could not be started" in lab.logs()
    step = lab.study(study)["by_step"]["a"]
    assert (step["ready"], step["failed"]) == (10, 0)


def test_walltime_of_a_step_is_enforced(lab: Lab) -> None:
    study = one_step(lab, "sleep 600 # $(X)", options="walltime: 1")
    lab.work("--queues", "merlin")
    status = lab.wait_for_end(study, 30)
    assert status["by_step"]["a"]["failed"] == 1
    assert "walltime of 1 s" in status["failed_samples"][0]["reason"]


def test_changed_sample_file_stops_the_study_with_a_sentence(lab: Lab) -> None:
    study = one_step(lab, "true $(X)", 10)
    np.save(lab.directory / "samples.npy", np.arange(11.0))
    worker = lab.work("--queues", "merlin", "--exit-when-done")
    assert worker.wait(timeout=30) == 6
    assert "samples.npy" in lab.logs()
    assert lab.study(study)["by_step"]["a"]["ready"] == 10


@pytest.mark.slow
def test_worker_leaks_no_descriptor_and_leaves_no_zombie(lab: Lab) -> None:
    study = one_step(lab, "true $(X)", 600)
    worker = lab.work("--queues", "merlin")
    engine = Path(f"/proc/{lab.engine_of(worker)}")
    wait_until(lambda: lab.study(study)["by_step"]["a"]["finished"] > 100, "some samples ran")
    early = len(list((engine / "fd").iterdir()))
    lab.wait_for_end(study)
    late = len(list((engine / "fd").iterdir()))
    assert late <= early + 4, (early, late)
    assert (engine / "task" / engine.name / "children").read_text().split() == []


@pytest.mark.slow
@pytest.mark.parametrize("code", [1, 101, -15])
def test_failed_samples_do_not_hold_the_funnel_back(lab: Lab, code: int) -> None:
    np.save(lab.directory / "samples.npy", np.arange(20.0))
    end = f"kill {code} $$" if code < 0 else f"exit {code}"
    study = lab.queue(
        lab.spec(f"""
        description: {{name: fails, description: some fail}}
        study:
            - name: a
              description: some fail
              run: {{cmd: "[ $(MERLIN_SAMPLE_ID) -lt 5 ] && {end}; true"}}
            - name: f
              description: a funnel
              run: {{cmd: "ls -d $(a.workspace)/$(MERLIN_GLOB_PATH) | wc -l >> $LEDGER/f", depends: [a_*]}}
        merlin:
            samples: {{file: samples.npy, column_labels: [X]}}
        """)
    )
    lab.work("--queues", "merlin")
    status = lab.wait_for_end(study)
    assert status["state"] == "finished"
    assert (status["by_step"]["a"]["failed"], status["by_step"]["a"]["finished"]) == (5, 15)
    assert lab.ledger("f") == {"20": 1}
    lab.mrun("wait", study, code=7)


@pytest.mark.slow
def test_worker_that_is_given_less_than_a_minute_says_why_it_runs_nothing(lab: Lab) -> None:
    one_step(lab, "echo $(X) >> $LEDGER/a")
    worker = lab.work("--queues", "merlin", "--walltime", "40")
    assert worker.wait(timeout=20) == 0
    assert '"event": "allocation_ending"' in lab.logs()
    assert lab.ledger("a") == {}
    # and to be gone, not to be waited for
    assert lab.json("inspect")["workers"] == []
