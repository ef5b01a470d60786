"""Allocations on demand on a real Slurm of two nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import numpy as np

from tests.conftest import wait_until
from tests.lab import BIN, Lab
from tests.launchers.slurm import Slurm

SAMPLES = 100
#: Quick rounds, and workers that leave soon.
QUICK = ("--interval", "0.5")
SOON = ("--walltime", "30m", "--cores", "2", "--idle-exit", "2")


def queue_samples(lab: Lab, command: str, samples: int = SAMPLES) -> str:
    """Queue a study whose samples run a command, on the queue `sim`."""
    np.save(lab.directory / "samples.npy", np.arange(float(samples)))
    text = f"""
        description: {{name: bag, description: d}}
        study: [{{name: a, description: d, run: {{cmd: '{command} # $(X)', task_queue: sim}}}}]
        merlin: {{samples: {{file: samples.npy, column_labels: [X]}}}}
    """
    return lab.queue(lab.spec(text))


def keep(lab: Lab, *words: str, **variables: str) -> subprocess.Popen[str]:
    """Start a keeper."""
    with (lab.directory / "keeper.log").open("a") as log:
        return subprocess.Popen(
            [BIN / "mrun", "alloc", "run", *words, *QUICK],
            cwd=lab.directory, env=lab.environment | variables, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
        )  # fmt: skip


def jobs_now(slurm: Slurm) -> list[str]:
    """Names of the jobs that wait or run."""
    return slurm.run("squeue", "--noheader", "--format=%j").stdout.split()


def all_jobs(slurm: Slurm, alloc: str) -> list[str]:
    """Names of all jobs that an allocation ever had, but for the one that was never to run."""
    names = slurm.run("squeue", "--noheader", "--states=all", "--format=%j").stdout.split()
    return [name for name in names if name.startswith(f"mrun-alloc-{alloc}-") and not name.endswith("-0")]


def test_a_backlog_of_a_hundred_samples_is_drained_by_at_most_two_jobs_at_a_time(lab, slurm):
    # Given samples, and an allocation of at most two jobs
    study = queue_samples(lab, "echo $SLURM_JOB_ID >> $LEDGER/jobs; sleep 0.05")
    assert lab.json("alloc", "add", "slurm", "--queues", "sim", "--name", "drain", "--max-jobs", "2", *SOON)[
        "trial_job"
    ]
    # When it is kept
    keeper, most = keep(lab, "--exit-when-done"), 0
    while keeper.poll() is None:
        most = max(most, len(jobs_now(slurm)))
    # Then all of them have run, in two jobs, and none is left
    assert keeper.returncode == 0, (lab.directory / "keeper.log").read_text()
    status = lab.study(study)
    assert (status["state"], status["by_step"]["a"]["finished"]) == ("finished", SAMPLES)
    assert most == 2
    assert jobs_now(slurm) == []
    assert sum(lab.ledger("jobs").values()) == SAMPLES
    assert len(lab.ledger("jobs")) <= len(all_jobs(slurm, "drain")) <= 4


def test_a_job_of_two_nodes_works_on_both(lab, slurm):
    study = queue_samples(lab, "echo $SLURMD_NODENAME >> $LEDGER/nodes; sleep 0.2", 40)
    lab.mrun("alloc", "add", "slurm", "--queues", "sim", "--nodes", "2", "--max-jobs", "1", *SOON)
    keeper = keep(lab, "--exit-when-done")
    assert lab.wait_for_end(study)["state"] == "finished"
    assert keeper.wait(60) == 0
    assert set(lab.ledger("nodes")) == {"n1", "n2"}
    assert lab.json("alloc", "list")[0]["ended"] == 1


def test_a_partition_that_does_not_exist_is_shown_and_backed_off(lab, slurm):
    queue_samples(lab, "true", 3)
    words = ("--queues", "sim", "--name", "nope", "--partition", "nope", *SOON)
    # Given that it was not tried first
    lab.mrun("alloc", "add", "slurm", *words, code=6)
    lab.mrun("alloc", "add", "slurm", "--no-dry-run", *words)
    lab.mrun("alloc", "run", "--once", *QUICK, code=6)
    (row,) = lab.json("alloc", "list")
    assert "invalid partition specified: nope" in row["error"]
    assert (row["state"], row["failures"], row["queued"]) == ("failing", 1, 0)
    assert row["retry_at"]
    assert all_jobs(slurm, "nope") == []


def test_a_keeper_that_is_killed_between_submission_and_record_does_not_submit_twice(lab, slurm):
    # Given an sbatch that kills whoever called it when Slurm has the job, and before it says so
    study = queue_samples(lab, "sleep 0.05", 20)
    lab.mrun("alloc", "add", "slurm", "--queues", "sim", "--name", "killed", "--max-jobs", "1", *SOON)
    deadly = lab.directory / "deadly"
    deadly.mkdir()
    real = slurm.run("which", "sbatch").stdout.strip()
    (deadly / "sbatch").write_text(f'#!/bin/sh\n{real} "$@" > "$0.said"\nkill -9 $PPID\n')
    (deadly / "sbatch").chmod(0o755)
    killed = keep(lab, PATH=f"{deadly}{os.pathsep}{lab.environment['PATH']}")
    assert killed.wait(60) == -signal.SIGKILL
    (before,) = all_jobs(slurm, "killed")
    assert lab.json("alloc", "list")[0]["unheard"] == 1
    # When another one takes over
    keeper = keep(lab, "--exit-when-done")
    assert lab.wait_for_end(study)["state"] == "finished"
    assert keeper.wait(60) == 0, (lab.directory / "keeper.log").read_text()
    # Then it has found the job by its name
    assert all_jobs(slurm, "killed") == [before]
    log = [json.loads(line) for line in (lab.directory / "keeper.log").read_text().splitlines() if line[:1] == "{"]
    assert before in [line.get("name") for line in log if line["event"] == "alloc_job_found"]
    assert lab.json("alloc", "list")[0]["ended"] == 1


def test_jobs_that_wait_are_cancelled_when_there_is_nothing_left_to_do(lab, slurm):
    # Given jobs that wait, because somebody else has all nodes
    slurm.run("sbatch", "--exclusive", "--nodes=2", "--wrap", "sleep 600")
    wait_until(lambda: slurm.node_states() == {"n1": "alloc", "n2": "alloc"}, "nodes are taken")
    study = queue_samples(lab, "true", 10)
    lab.mrun("alloc", "add", "slurm", "--queues", "sim", "--max-jobs", "2", *SOON)
    keeper = keep(lab)
    wait_until(lambda: len(jobs_now(slurm)) == 3, "two jobs wait")
    # When there is no study any more
    lab.mrun("cancel", study)
    # Then there are none of ours
    wait_until(lambda: len(jobs_now(slurm)) == 1, "they are cancelled")
    keeper.send_signal(signal.SIGTERM)
    assert keeper.wait(30) == 0
    lab.mrun("alloc", "remove", "sim")
    assert lab.json("alloc", "list") == []
