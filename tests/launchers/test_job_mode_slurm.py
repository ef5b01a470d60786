"""`mode: job` on a real Slurm of two nodes: a worker that submits samples as jobs, as on a login node."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from tests.conftest import TestServer, wait_until
from tests.lab import BIN, Lab
from tests.launchers.slurm import Slurm

SPEC = """
    description: {{name: jobs, description: samples that are jobs of Slurm}}
    batch: {{type: slurm}}
    study:
        - name: a
          description: d
          run:
              mode: job
              {options}
              cmd: |
                  echo "${{MRUN_SAMPLE_ID}}:${{MRUN_RESUME}}:$SLURMD_NODENAME" >> $LEDGER/ran # $(X)
                  {cmd}
    merlin: {{samples: {{file: samples.npy, column_labels: [X]}}}}
"""
#: Without it a job takes all memory of its node, and is alone there.
LITTLE_MEMORY = 'slurm: "--mem=50"'
UNTIL_GO = "until [ -e $LEDGER/go ]; do sleep 0.1; done"


class SlurmLab(Lab):
    """A lab whose commands reach the cluster."""

    def __init__(self, directory, server: TestServer, slurm: Slurm) -> None:
        super().__init__(directory, server)
        self.slurm = slurm
        self.environment |= {
            "SLURM_CONF": slurm.environment["SLURM_CONF"],
            "PATH": f"{BIN}{os.pathsep}{slurm.environment['PATH']}",
        }

    def queue_jobs(self, cmd: str, samples: int, options: str) -> str:
        np.save(self.directory / "samples.npy", np.arange(float(samples)))
        return self.queue(self.spec(SPEC.format(cmd=cmd, options=options)))

    def work_on_jobs(self, *words: str) -> subprocess.Popen[bytes]:
        return self.work("--queues", "merlin", "--lease", "2", "--exit-when-done", *words)

    def ran(self) -> Counter[str]:
        """How often each sample was begun."""
        return Counter(line.partition(":")[0] for line in self.ledger("ran").elements())

    def queued(self) -> list[str]:
        """The names of jobs that have not ended."""
        return self.slurm.run("squeue", "--noheader", "--format=%j").stdout.split()

    def samples_of_jobs(self, study: str) -> list[int]:
        """Of all jobs of the study that Slurm ever had, which sample they were."""
        names = self.slurm.run("squeue", "--noheader", "--format=%j", "--states=all").stdout.split()
        return sorted(int(name.split("-")[-2]) for name in names if name.startswith(f"mrun-{study}-0-"))

    def job_of(self, study: str, sample: int) -> str:
        name = f"mrun-{study}-0-{sample}-0"
        return self.slurm.run("squeue", "--noheader", "--format=%A", f"--name={name}").stdout.strip()


@pytest.fixture
def lab(tmp_path, own_server: TestServer, slurm: Slurm) -> Iterator[SlurmLab]:
    lab = SlurmLab(tmp_path, own_server, slurm)
    yield lab
    (lab.ledger_dir / "go").touch()
    lab.stop_workers()
    slurm.heal()
    lab.close()


@contextlib.contextmanager
def observed(lab: SlurmLab) -> Iterator[list[int]]:
    """How many jobs were in the queue, again and again."""
    seen: list[int] = []
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.2):
            seen.append(len(lab.queued()))

    observer = threading.Thread(target=look)
    observer.start()
    try:
        yield seen
    finally:
        is_over.set()
        observer.join()


def test_a_hundred_samples_are_a_hundred_jobs_and_few_at_a_time(lab):
    study = lab.queue_jobs("true", 100, f"throttle: 10\n              {LITTLE_MEMORY}")
    # When a worker works, and somebody looks at the queue all the time
    with observed(lab) as seen:
        lab.work_on_jobs()
        status = lab.wait_for_end(study, 100)
    # Then each sample ran once, as a job of its own, and there were never too many
    assert status["by_step"]["a"]["finished"] == 100, lab.logs()
    assert lab.ran() == Counter(map(str, range(100)))
    assert lab.samples_of_jobs(study) == list(range(100))
    assert 1 < max(seen) <= 10


def test_what_ends_a_job_is_told_and_a_node_that_fails_is_not_the_samples_fault(lab):
    # Given jobs of which each needs half a node
    study = lab.queue_jobs(UNTIL_GO, 3, "procs: 3\n              walltime: 3600")
    lab.work_on_jobs()
    wait_until(lambda: len(lab.ran()) == 2, "two jobs run, one on each node")
    first, on_second_node = (
        next(int(line.split(":")[0]) for line in lab.ledger("ran") if line.endswith(node)) for node in ("n1", "n2")
    )
    third = ({0, 1, 2} - {first, on_second_node}).pop()
    # When somebody cancels one, a node goes down, and a job is longer than it may be
    lab.slurm.run("scancel", lab.job_of(study, first))
    wait_until(lambda: lab.ran()[str(third)], "the third runs where the first was")
    lab.slurm.run("scontrol", "update", f"JobId={lab.job_of(study, third)}", "EndTime=now")
    lab.slurm.set_node("n2", "down")
    # Then the last runs again, and is told that it had begun
    wait_until(lambda: lab.ran()[str(on_second_node)] == 2, f"it runs again: {lab.ledger('ran')}", 90)
    # (Slurm looks for jobs past their walltime twice a minute.)
    wait_until(lambda: lab.study(study)["by_step"]["a"]["failed"] == 2, "the others have failed", 60)
    (lab.ledger_dir / "go").touch()
    status = lab.wait_for_end(study, 60)
    assert status["by_step"]["a"]["finished"] == 1, lab.logs()
    assert any(line.startswith(f"{on_second_node}:1:") for line in lab.ledger("ran")), lab.ledger("ran")
    # and the others each tell what ended them
    reasons = {failure["sample"]: failure["reason"] for failure in status["failed_samples"]}
    assert reasons == {first: "was cancelled in Slurm", third: "ran longer than its walltime of 3600 s"}


def test_a_rejection_is_told_in_full_and_the_study_is_left_to_others(lab):
    study = lab.queue_jobs("true", 1, 'slurm: "--partition=nope"')
    worker = lab.work_on_jobs()
    assert worker.wait(timeout=60) == 6, lab.logs()
    assert "invalid partition specified: nope" in lab.logs()
    assert lab.study(study)["by_step"]["a"]["ready"] == 1


@pytest.mark.parametrize("is_guard_killed", [False, True], ids=["engine", "both"])
def test_jobs_of_a_killed_worker_are_awaited_by_the_next_one(lab, is_guard_killed):
    # Given jobs that run, and some that wait in Slurm's queue
    study = lab.queue_jobs(UNTIL_GO, 12, LITTLE_MEMORY)
    first = lab.work_on_jobs()
    wait_until(lambda: len(lab.ran()) >= 4, "jobs run")
    # When their worker is killed while it submits
    engine = lab.engine_of(first)
    if is_guard_killed:
        first.kill()
    os.kill(engine, signal.SIGKILL)
    first.wait(timeout=30)
    # Then the next one submits none of them twice
    lab.work_on_jobs()
    wait_until(lambda: "job_found" in lab.logs(), "it finds jobs", 20)
    (lab.ledger_dir / "go").touch()
    status = lab.wait_for_end(study, 60)
    assert status["by_step"]["a"]["finished"] == 12, lab.logs()
    assert lab.ran() == Counter(map(str, range(12)))
    assert lab.samples_of_jobs(study) == list(range(12))
