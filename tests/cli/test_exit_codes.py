"""What a step's exit code does to its sample, to what depends on it, to its study and to the workers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.homes import Home, ended
from tests.conftest import wait_until


def queue(home: Home, name: str, cmd: str, more: str = "", after: str = "", samples: int = 0) -> tuple[str, Path]:
    """Queue a study `name` on the queue of that name: a step `sim`, and `after` it, if that is given, a step `post`.

    Returns:
        Its id and its workspace.
    """
    steps = [step("sim", cmd, name, more)] + ([step("post", after, name, "depends: [sim]")] if after else [])
    text = f"description: {{name: {name}, description: x}}\nenv: {{variables: {{OUTPUT_PATH: ./{name}}}}}\nstudy:\n"
    text += "".join(steps)
    if samples:
        home.write(f"{name}.csv", "".join(f"{number}\n" for number in range(samples)))
        text += f"merlin: {{samples: {{file: {name}.csv, column_labels: [X]}}}}\n"
    (home.work / f"{name}.yaml").write_text(text)
    study = home.queue(f"{name}.yaml")
    return study, home.study_dirs(name)[-1]


def step(name: str, cmd: str, queue_name: str, more: str) -> str:
    body = "".join(f"        {line}\n" for line in cmd.splitlines())
    keys = "".join(f"      {line}\n" for line in [f"task_queue: {queue_name}", *more.splitlines()] if line)
    return f"  - name: {name}\n    description: x\n    run:\n{keys}      cmd: |\n{body}"


def status(home: Home, study: str) -> Any:
    (one,) = home.json("status", study)
    return one


def counts(one: Any, step_index: int = 0) -> dict[str, int]:
    """The states that samples of a step are in."""
    states = ("waiting", "ready", "running", "retrying", "finished", "failed", "dead", "skipped", "cancelled")
    return {state: one["steps"][step_index][state] for state in states if one["steps"][step_index][state]}


@pytest.mark.slow
def test_codes_that_decide_about_one_sample(shared_home: Home) -> None:
    """Five studies and one worker, because to start a process is what takes the time of these tests."""
    # Given a study for each code
    again = "exit $(( $(X) == 1 ? %s : 0 ))"
    restart, restart_dir = queue(
        shared_home, "restart", "echo first; exit $(MERLIN_RESTART)",
        "retry_delay: 0\nrestart: 'echo again resume=$MRUN_RESUME attempt=$MRUN_ATTEMPT'",
    )  # fmt: skip
    retry, retry_dir = queue(
        shared_home, "retry", "echo attempt $MRUN_ATTEMPT; [ $MRUN_ATTEMPT = 2 ] || exit $(MERLIN_RETRY)",
        "retry_delay: 0", after="echo after",
    )  # fmt: skip
    exhausted, exhausted_dir = queue(
        shared_home, "exhausted", "echo $MRUN_ATTEMPT; exit $(MERLIN_RETRY)", "retry_delay: 0\nmax_retries: 2"
    )
    soft, _ = queue(shared_home, "soft", again % "$(MERLIN_SOFT_FAIL)", after="echo $(X)", samples=3)
    raising, _ = queue(shared_home, "raise", again % "$(MERLIN_RAISE_ERROR)", after="echo $(X)", samples=3)
    # When a worker runs them
    assert shared_home.work_off("restart,retry,exhausted,soft,raise").returncode == 0
    found = {one["study"]: one for one in shared_home.json("status", "all")}
    assert all(found[study]["state"] == "finished" for study in (restart, retry, exhausted, soft, raising))
    # RESTART: `restart` ran after `cmd`, in the same files
    assert counts(found[restart]) == {"finished": 1}
    assert (restart_dir / "sim/sim.out").read_text() == "first\nagain resume=1 attempt=1\n"
    assert (restart_dir / "sim/sim.restart.sh").exists()
    assert (restart_dir / "sim/MERLIN_FINISHED").exists()
    # RETRY: `cmd` ran again, and what depends on it waited
    assert counts(found[retry]) == {"finished": 1}
    assert (retry_dir / "sim/sim.out").read_text() == "attempt 0\nattempt 1\nattempt 2\n"
    # ... and not for ever
    assert counts(found[exhausted]) == {"failed": 1}
    assert found[exhausted]["failed_samples"][0]["reason"].startswith("retries exhausted")
    assert (exhausted_dir / "sim/sim.out").read_text() == "0\n1\n2\n"
    # SOFT_FAIL: what depends on the sample runs
    assert counts(found[soft]) == {"finished": 2, "failed": 1}
    assert counts(found[soft], 1) == {"finished": 3}
    # RAISE_ERROR: what depends on this sample is skipped, and nothing else
    assert counts(found[raising]) == {"finished": 2, "failed": 1}
    assert counts(found[raising], 1) == {"finished": 2, "skipped": 1}


@pytest.mark.slow
def test_hard_fail_ends_its_study_and_no_other(shared_home: Home) -> None:
    # Given two studies on one queue, the first of which fails hard
    bad, _ = queue(shared_home, "hard", "exit $(MERLIN_HARD_FAIL)", after="echo never")
    (shared_home.work / "good.yaml").write_text(
        (shared_home.work / "hard.yaml")
        .read_text()
        .replace("exit $(MERLIN_HARD_FAIL)", "echo")
        .replace("hard}", "good}")
    )
    good = shared_home.queue("good.yaml")
    # When one worker works on both
    assert shared_home.work_off("hard").returncode == 0
    # I expect the one to have failed, and the other not to have noticed
    one = status(shared_home, bad)
    assert one["state"] == "failed"
    assert counts(one) == {"failed": 1}
    assert counts(one, 1) in ({"skipped": 1}, {"cancelled": 1})
    assert "HARD_FAIL" in one["failed_samples"][0]["reason"]
    assert status(shared_home, good)["state"] == "finished"
    assert shared_home.run("wait", bad).returncode == 7
    assert shared_home.run("wait", good).returncode == 0


@pytest.mark.slow
def test_stop_workers_drains_the_worker_and_leaves_dependents_for_later_ones(shared_home: Home) -> None:
    study, _ = queue(shared_home, "stopping", "exit $(MERLIN_STOP_WORKERS)", after="echo later")
    # A worker that would go on for ever
    assert ended(shared_home.start("work", "--queues", "stopping", "--slots", "1"), 20).returncode == 0
    one = status(shared_home, study)
    assert one["state"] == "running"
    assert counts(one) == {"finished": 1}
    assert counts(one, 1) == {"ready": 1}
    assert shared_home.work_off("stopping").returncode == 0
    assert status(shared_home, study)["state"] == "finished"


def test_walltime_ends_a_script(shared_home: Home) -> None:
    study, workspace = queue(shared_home, "walltime", "echo $$ > pid; sleep 1000", "walltime: 1")
    began = time.monotonic()
    assert shared_home.work_off("walltime").returncode == 0
    assert time.monotonic() - began < 10
    one = status(shared_home, study)
    assert counts(one) == {"failed": 1}
    assert "walltime of 1 s" in one["failed_samples"][0]["reason"]
    wait_until(lambda: not Path("/proc", (workspace / "sim/pid").read_text().strip()).exists(), "the script is gone")


@pytest.mark.slow
def test_step_that_queues_a_study_has_it_run_by_the_same_workers(home: Home) -> None:
    # Given the iteration idiom: a spec that queues itself with the next number
    home.write(
        "spec.yaml",
        """
        description: {name: iterate, description: x}
        env: {variables: {OUTPUT_PATH: "$(SPECROOT)/studies", ITER: 1}}
        study:
          - name: sim
            description: x
            run: {cmd: echo iteration $(ITER), task_queue: sim}
          - name: next
            description: x
            run:
              cmd: |
                [ $(ITER) -ge 3 ] || mrun queue "$(SPECROOT)/spec.yaml" --vars ITER=$(( $(ITER) + 1 ))
              depends: [sim]
              task_queue: sim
        """,
    )
    # When `mrun run` runs the first one
    value = home.json("run", "spec.yaml")
    # I expect it to have waited for the family
    assert [study["state"] for study in value["studies"]] == ["finished"] * 3
    assert {study["root"] for study in value["studies"]} == {value["studies"][0]["study"]}
    outputs = sorted(path.read_text() for path in home.work.glob("studies/*/sim/sim.out"))
    assert outputs == ["iteration 1\n", "iteration 2\n", "iteration 3\n"]
    assert home.workers_and_steps() == {}
    # And the same with a worker that somebody else started
    home.queue("spec.yaml", "--vars", "ITER=2")
    assert home.work_off("sim").returncode == 0
    assert len(home.study_dirs()) == 5
    assert all(study["state"] == "finished" for study in home.json("status"))
