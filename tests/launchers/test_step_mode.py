"""`mode: step` without a real scheduler: what a spec may ask for, and a worker in a fake Flux instance."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TestServer
from tests.lab import BIN, Lab
from tests.launchers.kinds import faked

SPEC = """
    description: {{name: started, description: scripts that a scheduler starts}}
    batch: {{type: {type}}}
    study:
        - name: a
          description: d
          run: {{mode: step, cmd: '{cmd}', {options}}}
"""


@pytest.fixture
def lab(tmp_path: Path, own_server: TestServer) -> Iterator[Lab]:
    """A lab in a Flux instance of two cores."""
    lab = Lab(tmp_path, own_server)
    flux = faked("flux", tmp_path).environment
    bins = f"{tmp_path / 'bin'}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}"
    lab.environment |= {"PATH": bins, "FAKE_DIR": flux["FAKE_DIR"], "FLUX_URI": flux["FLUX_URI"]}
    yield lab
    lab.close()


def run(lab: Lab, cmd: str, options: str = "procs: 1", batch_type: str = "flux") -> dict:
    study = lab.queue(lab.spec(SPEC.format(type=batch_type, cmd=cmd, options=options)))
    lab.work("--queues", "merlin", "--exit-when-done")
    return lab.wait_for_end(study)


def check(lab: Lab, cmd: str, options: str, batch_type: str) -> str:
    path = lab.spec(SPEC.format(type=batch_type, cmd=cmd, options=options))
    done = subprocess.run(
        [BIN / "mrun", "check", path],
        cwd=lab.directory,
        env=lab.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done
    return done.stderr + done.stdout


@pytest.mark.parametrize(
    ("batch_type", "cmd", "options", "said"),
    [
        ("slurm", "$(LAUNCHER) ./a", "procs: 2", "would wait for cores that its script holds"),
        ("flux", "$(VLAUNCHER) ./a", "procs: 2", "would wait for cores that its script holds"),
        ("slurm", "./a", "nodes: 2", "can't start one script on 2 nodes"),
        ("pbs", "./a", "procs: 2", "PBS can't start a script on cores of its own"),
        ("slurm", "true", "warm: yes", "can't be warm"),
    ],
)
def test_what_a_started_script_can_not_have_is_an_error_of_the_spec(lab, batch_type, cmd, options, said):
    assert said in check(lab, cmd, options, batch_type)


def test_a_script_is_started_by_flux_and_its_end_is_its_own(lab):
    status = run(lab, "echo $PWD >> $LEDGER/dirs; exit 3", "procs: 2")
    assert status["failed_samples"][0]["reason"] == "exit code 3"
    assert lab.ledger("dirs") == {f"{status['workspace']}/a": 1}


def test_a_script_that_a_signal_ended_is_told_as_such(lab):
    assert run(lab, "kill -9 $$")["failed_samples"][0]["reason"] == "killed by SIGKILL"


def test_without_a_scheduler_the_worker_starts_the_script(lab):
    status = run(lab, "echo up >> $LEDGER/up", batch_type="local")
    assert (status["by_step"]["a"]["finished"], lab.ledger("up")) == (1, {"up": 1})


def test_what_the_scheduler_refuses_is_no_failure_of_the_sample_and_the_worker_says_why(lab):
    # Given a step that needs more cores than there are
    study = lab.queue(lab.spec(SPEC.format(type="flux", cmd="true", options="procs: 100")))
    # When a worker tries
    worker = lab.work("--queues", "merlin", "--exit-when-done")
    # Then it gives up, and the sample is still there for others
    assert worker.wait(timeout=60) == 6, lab.logs()
    assert "unsatisfiable request" in lab.logs()
    assert lab.study(study)["by_step"]["a"]["ready"] == 1
