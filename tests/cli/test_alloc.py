"""Allocations on demand, with schedulers that are fakes on PATH; the jobs and the workers in them are real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.homes import Home, ended
from tests.conftest import wait_until
from tests.launchers.kinds import ALLOCATED, CALLED, FAKES

KINDS = ("flux", "lsf", "pbs")
#: Quick rounds, and workers that leave soon.
QUICK = ("--interval", "0.2")
SOON = ("--walltime", "2h", "--cores", "2", "--idle-exit", "0.5")


def give_scheduler(home: Home, kind: str) -> Path:
    """Put a fake of that scheduler on the home's PATH; its directory of jobs."""
    bin_dir, fake_dir = home.directory / "bin", home.directory / "fake"
    bin_dir.mkdir()
    fake_dir.mkdir()
    for link, fake in CALLED[kind].items():
        (bin_dir / link).symlink_to(FAKES / fake)
    path = os.pathsep.join((str(bin_dir), str(Path(sys.executable).parent), home.environ["PATH"]))
    home.environ |= {"PATH": path, "FAKE_DIR": str(fake_dir), "HOME": str(home.directory)}
    home.environ |= {"FLUX_URI": ALLOCATED["flux"]["FLUX_URI"]} if kind == "flux" else {}
    return fake_dir


def queue_samples(home: Home, count: int, *, seconds: float = 0.05, walltime: str = "") -> str:
    """Queue a study of samples on the queue `sim`; its id."""
    limit = f", walltime: '{walltime}'" if walltime else ""
    home.write("samples.csv", "".join(f"{number}\n" for number in range(count)))
    spec = home.write(
        "spec.yaml",
        f"""
        description: {{name: bag, description: d}}
        env: {{variables: {{OUTPUT_PATH: studies}}}}
        study: [{{name: a, description: d, run: {{cmd: "sleep {seconds} # $(X)", task_queue: sim{limit}}}}}]
        merlin: {{samples: {{file: {home.work}/samples.csv, column_labels: [X]}}}}
        """,
    )
    return home.queue(spec)


def jobs_of(fake_dir: Path) -> list[Path]:
    """The jobs that were submitted, but for those that were held."""
    return sorted(job for job in fake_dir.iterdir() if job.is_dir() and not (job / "held").exists())


def row_of(home: Home, name: str = "sim") -> dict[str, Any]:
    return next(row for row in home.json("alloc", "list") if row["name"] == name)


@pytest.mark.parametrize("kind", [KINDS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])])
def test_a_backlog_is_drained_by_jobs_and_none_is_left(home, kind):
    # Given an allocation of at most two jobs, and samples for more
    fake_dir = give_scheduler(home, kind)
    study = queue_samples(home, 30)
    assert home.json("alloc", "add", kind, "--queues", "sim", "--max-jobs", "2", *SOON)["name"] == "sim"
    # When somebody keeps it
    (row,) = home.json("alloc", "run", "--exit-when-done", *QUICK)
    # Then its workers have done all of it
    assert home.json("status", study)[0]["state"] == "finished"
    assert (row["queued"], row["running"], row["ready"], row["error"]) == (0, 0, 0, "")
    assert 1 <= row["ended"] == len(jobs_of(fake_dir)) <= 4


@pytest.mark.slow
def test_what_would_fail_is_told_by_add_and_what_fails_by_list(home):
    fake_dir = give_scheduler(home, "lsf")
    queue_samples(home, 5)
    words = ("lsf", "--queues", "sim", "--partition", "nope", *SOON)
    # Given words that the scheduler refuses: nothing is added
    for verb in ("add", "dry-run"):
        done = home.run("alloc", verb, *words)
        assert (done.returncode, "No such queue" in done.stderr) == (6, True), done.stderr
    # When they are added all the same
    home.ok("alloc", "add", *words, "--no-dry-run")
    done = home.run("alloc", "run", "--once", *QUICK)
    # Then its failure is an exit code, and can be seen
    assert (done.returncode, "No such queue" in done.stderr) == (6, True), done.stderr
    (row,) = home.json("alloc", "list")
    assert (row["state"], row["failures"], row["retry_at"] is not None) == ("failing", 1, True)
    text = home.ok("alloc", "list")
    assert "No such queue. Job not submitted." in text
    assert "next try at" in text
    assert jobs_of(fake_dir) == []


@pytest.mark.slow
def test_a_job_that_fails_is_shown_with_what_it_printed(home):
    give_scheduler(home, "lsf")
    queue_samples(home, 2)
    # Given a site where jobs get a variable that mrun can't use
    home.ok("alloc", "add", "lsf", "--queues", "sim", *SOON)
    (home.directory / "real").mkdir()
    wrapper = home.directory / "bin" / "bsub"
    wrapper.rename(home.directory / "real" / "bsub")
    wrapper.write_text(f'#!/bin/bash\nMRUN_LEASE_S=nonsense exec {home.directory}/real/bsub "$@"\n')
    wrapper.chmod(0o755)
    keeper = home.start("alloc", "run", *QUICK)
    try:
        row = wait_until(lambda: (found := row_of(home))["failures"] and found, "the failure is noted")
    finally:
        keeper.send_signal(signal.SIGTERM)
    assert ended(keeper).returncode == 0
    assert "ended with exit code 3" in row["error"]
    assert "nonsense" in row["error"]


def listens(process: subprocess.Popen[str]) -> bool:
    """Whether it has a handler for SIGTERM, which Python by itself has not."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.slow
def test_two_keepers_share_the_work_and_one_that_is_ended_leaves_its_jobs(home):
    fake_dir = give_scheduler(home, "lsf")
    study = queue_samples(home, 60)
    home.ok("alloc", "add", "lsf", "--queues", "sim", "--max-jobs", "1", *SOON)
    keepers = [home.start("alloc", "run", *words, *QUICK) for words in ((), ("--exit-when-done",))]
    wait_until(lambda: jobs_of(fake_dir), "a job was submitted")
    wait_until(lambda: listens(keepers[0]), "it listens to signals: the other one may have submitted")
    # When one of them is told to end, it does so at once
    keepers[0].send_signal(signal.SIGINT)
    assert ended(keepers[0]).returncode == 0
    # Then the other one goes on with the same job
    assert ended(keepers[1]).returncode == 0
    assert home.json("status", study)[0]["state"] == "finished"
    names = [(job / "name").read_text() for job in jobs_of(fake_dir)]
    assert len(names) == len(set(names)) == row_of(home)["ended"]


@pytest.mark.slow
def test_pause_resume_and_remove(home):
    fake_dir = give_scheduler(home, "lsf")
    queue_samples(home, 4, seconds=600)
    home.ok("alloc", "add", "lsf", "--queues", "sim", "--max-jobs", "1", *SOON)
    home.ok("alloc", "pause", "sim")
    assert home.json("alloc", "run", "--once", *QUICK)[0]["state"] == "paused"
    assert jobs_of(fake_dir) == []
    home.ok("alloc", "resume", "sim")
    home.ok("alloc", "run", "--once", *QUICK)
    (job,) = jobs_of(fake_dir)
    wait_until(lambda: home.json("inspect")["workers"], "its worker works")
    assert home.json("alloc", "run", "--once", *QUICK)[0]["running"] == 1
    # To end what runs has to be confirmed.
    done = home.run("alloc", "remove", "sim", "--force")
    assert (done.returncode, "1 running job" in done.stderr) == (2, True)
    # What it did is for who asked: nothing else stands on stdout
    assert json.loads(home.ok("--json", "alloc", "remove", "sim", "--force", "--yes"))["name"] == "sim"
    assert (job / "cancelled").exists()
    assert home.json("alloc", "list") == []
    assert home.run("alloc", "remove", "sim").returncode == 4
    # The worker was only asked to end, and lets the sample that it runs finish.
    home.ok("cancel", "last")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("pbs", "--queues", "sim", "--walltime", "1h"), 2, "--cores"),
        (("lsf", "--queues", "sim", "--walltime", "1h", "--name", "a b"), 2, "can't be called"),
        (("lsf", "--queues", "sim", "--walltime", "1h", "--resources", "cpus=many"), 2, "cpus=many"),
        (("lsf", "--queues", ",", "--walltime", "1h"), 2, "names no queue"),
        (("lsf", "--queues", "sim", "--walltime", "soon"), 2, "no duration"),
        (("lsf", "--queues", "sim"), 2, "--walltime"),
        (("local", "--queues", "sim", "--walltime", "1h"), 2, "takes no jobs"),
        (("slrum", "--queues", "sim", "--walltime", "1h"), 2, "Did you mean 'slurm'?"),
        (("lsf", "--queues", "sim", "--walltime", "59"), 2, "--walltime 59m"),
        (("lsf", "--queues", "sim", "--walltime", "0.9m"), 2, "minutes"),
    ],
)
def test_words_that_do_not_fit_together_are_refused(shared_home, words, code, said):
    done = shared_home.run("alloc", "dry-run", *words)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@pytest.mark.slow
def test_an_allocation_of_the_same_jobs_needs_a_name_of_its_own(home):
    give_scheduler(home, "lsf")
    words = ("lsf", "--queues", "sim,train", *SOON, "--no-dry-run")
    home.ok("alloc", "add", *words)
    # When the same jobs are asked for again, for queues in another order, and more of them
    again = ("lsf", "--queues", "train,sim", *SOON, "--no-dry-run", "--max-jobs", "9")
    done = home.run("alloc", "add", *again)
    # Then it says which allocation has them, and adds none
    assert (done.returncode, "'sim' submits such jobs already" in done.stderr) == (2, True), done.stderr
    assert [row["name"] for row in home.json("alloc", "list")] == ["sim"]
    # Who gives it a name wants both; and other jobs are another allocation
    assert home.json("alloc", "add", *again, "--name", "more")["name"] == "more"
    assert home.json("alloc", "add", *words, "--gpus", "1")["name"] == "sim-2"


@pytest.mark.slow
def test_once_does_not_say_that_nobody_keeps_what_it_has_just_seen_to(home):
    give_scheduler(home, "lsf")
    home.ok("alloc", "add", "lsf", "--queues", "sim", *SOON, "--no-dry-run")
    assert "nobody keeps 'sim'" in home.run("alloc", "list").stderr
    done = home.run("alloc", "run", "--once", *QUICK)
    assert done.returncode == 0
    assert "nobody keeps" not in done.stderr
    assert "not kept" not in done.stdout
    assert "idle" in done.stdout


def test_dry_run_shows_a_job_that_is_refused(home):
    fake_dir = give_scheduler(home, "lsf")
    words = ("lsf", "--queues", "sim", "--partition", "nope", *SOON)
    done = home.run("alloc", "dry-run", *words)
    assert done.returncode == 6
    assert "--queues sim" in done.stdout
    assert "-q nope" in done.stdout
    # What to correct are the allocation's words: there is no step
    assert "No such queue. Job not submitted." in done.stderr
    assert "of the allocation" in done.stderr
    assert "step" not in done.stderr
    # One JSON value, as ever
    done = home.run("alloc", "dry-run", *words, "--json")
    assert json.loads(done.stdout)["error"]["exit_code"] == 6
    assert jobs_of(fake_dir) == []


def test_dry_run_shows_the_job_and_leaves_none(home):
    fake_dir = give_scheduler(home, "lsf")
    words = ("--queues", "sim", "--name", "night", *SOON, "--", "-app")
    found = json.loads(home.ok("--json", "alloc", "dry-run", "lsf", *words))
    assert found["command"][-3:-1] == ["-app", "-H"]
    assert "--queues sim" in found["script"]
    assert (fake_dir / f"lsf.{found['job']}" / "cancelled").exists()


def test_who_has_another_key_is_told_so_and_a_server_on_a_socket_is_warned_of(home):
    give_scheduler(home, "lsf")
    done = home.run("alloc", "add", "lsf", "--queues", "sim", *SOON)
    assert done.returncode == 0
    assert "mrun server start --listen HOST" in done.stderr
    (home.directory / "config" / "mrun" / "seal.key").write_text("00" * 32)
    done = home.run("alloc", "list", "--json")
    assert (done.returncode, done.stdout.strip()) == (0, "[]")
    assert "another key" in done.stderr


@pytest.mark.slow
def test_a_worker_that_is_to_leave_when_it_is_idle_is_not_idle_while_a_sample_runs(home):
    study = queue_samples(home, 1, seconds=2)
    done = home.run("work", "--queues", "sim", "--idle-exit", "0.5s")
    assert done.returncode == 0
    assert "worker_idle" in done.stderr
    assert home.json("status", study)[0]["state"] == "finished"
