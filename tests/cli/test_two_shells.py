"""The first promise: `mrun queue` in one shell, `mrun work` in another, and no configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.homes import Home, ended
from tests.conftest import wait_until

SPEC = """
    description: {name: two shells, description: every kind of directory}
    env:
      variables: {OUTPUT_PATH: ./studies}
    global.parameters:
      P: {values: [a, b], label: P.%%}
    study:
      - name: sim
        description: one script a sample, and it waits until the test opens the gate
        run:
          cmd: |
            touch started
            until [ -e "$(SPECROOT)/gate" ]; do sleep 0.02; done
            echo $(X)-$(Y)
          task_queue: sim
      - name: post
        description: one script a sample and a row
        run:
          cmd: |
            echo $(P) $(cat "$(sim.workspace)/$(MERLIN_SAMPLE_PATH)/sim.out")
            echo told the other stream >&2
          depends: [sim]
          task_queue: sim
      - name: total
        description: a funnel
        run:
          cmd: cat "$(post.workspace)"/P.*/$(MERLIN_GLOB_PATH)post_P.*.out
          depends: [post_*]
          task_queue: train
    merlin:
      samples: {file: samples.csv, column_labels: [X, Y], level_max_dirs: 2}
"""
STEP_KEYS = {
    *("name", "queues", "nodes", "samples", "waiting", "ready", "running", "retrying", "finished", "failed", "dead"),
    *("skipped", "cancelled", "mean_s"),
}
STUDY_KEYS = {
    *("study", "name", "state", "priority", "workspace", "root", "queued_at", "ended_at", "why", "steps", "failures"),
    "failed_samples",
}
QUEUE_KEYS = {
    *("queue", "study", "name", "state", "ready", "running", "retrying", "dead", "entries", "pending"),
    *("oldest_pending_s", "consumers", "workers"),
}
WORKER_KEYS = {
    *("worker", "name", "host", "pid", "queues", "slots", "claims", "is_draining", "lease_left_s", "lease_s"),
    *("resources", "has_told_cpus"),
}


def lay_out(home: Home) -> Path:
    home.write("samples.csv", "1,one\n# a comment\n2,two\n3,three\n")
    return home.write("spec.yaml", SPEC)


def test_study_queued_in_one_shell_is_run_by_a_worker_in_another(home: Home) -> None:
    # Given a study that was queued without any configuration
    queued = home.run("queue", str(lay_out(home)), "--json")
    assert queued.returncode == 0, queued.stderr
    told = json.loads(queued.stdout)
    study = told["study"]
    assert (told["queues"], told["sample_count"], told["script_count"]) == (["sim", "train"], 3, 10)
    assert "mrun work --queues sim,train" not in queued.stdout
    look_before(home, study)
    # When a worker that was told nothing but queues runs it
    worker = home.start("work", "--queues", "sim,train", "--exit-when-done", "--slots", "2")
    workspace = Path(told["workspace"])
    wait_until(lambda: len(list(workspace.glob("sim/*/*/started"))) == 2, "two samples run")
    look_during(home, study)
    waiting = home.start("wait", study)
    (home.work / "gate").touch()
    # I expect it to end by itself, and all results in their places
    assert ended(worker).returncode == 0
    waited = ended(waiting)
    assert waited.returncode == 0, waited.stderr
    assert waited.stdout.startswith(f"{study}  two shells  finished")
    look_after(home, study)
    check_files(workspace)


def look_before(home: Home, study: str) -> None:
    text, value, quiet, all_text, inspect_text, inspect_value, inspect_quiet = home.all(
        *("status last", "status last --json", "status -q", "status", "inspect", "inspect --json", "inspect -q")
    )
    assert text.stdout.startswith(f"{study}  two shells  running\nworkspace  ")
    assert quiet.stdout == f"{study}\n"
    assert all_text.stdout.split()[:6] == ["study", "name", "state", "samples", "ended", "failed"]
    (status,) = json.loads(value.stdout)
    assert set(status) == STUDY_KEYS
    assert status["state"] == "running"
    assert status["ended_at"] is None
    assert status["queued_at"].endswith("Z")
    sim, post, total = status["steps"]
    assert all(set(step) == STEP_KEYS for step in status["steps"])
    assert (sim["samples"], sim["ready"], sim["mean_s"]) == (3, 3, None)
    assert (post["nodes"], post["samples"], post["waiting"]) == (2, 6, 6)
    assert (total["samples"], total["waiting"]) == (1, 1)
    inspected = json.loads(inspect_value.stdout)
    by_queue = {row["queue"]: row for row in inspected["queues"]}
    assert all(set(row) == QUEUE_KEYS for row in inspected["queues"])
    assert (by_queue["sim"]["ready"], by_queue["sim"]["pending"], by_queue["sim"]["workers"]) == (3, 0, 0)
    assert inspected["workers"] == []
    assert inspect_quiet.stdout == "sim\ntrain\n"
    assert "no worker listens to queue 'sim'" in inspect_text.stderr
    assert "mrun work --queues sim" in inspect_text.stderr


def look_during(home: Home, study: str) -> None:
    value, inspect_value, inspect_text = home.all("status last --json", "inspect --json", "inspect")
    sim = json.loads(value.stdout)[0]["steps"][0]
    assert (sim["running"], sim["ready"], sim["finished"]) == (2, 1, 0)
    inspected = json.loads(inspect_value.stdout)
    (worker,) = inspected["workers"]
    assert set(worker) == WORKER_KEYS
    assert (worker["queues"], worker["slots"], worker["claims"]) == (["sim", "train"], 2, 2)
    row = next(row for row in inspected["queues"] if row["queue"] == "sim")
    # Two claims were bitten off one entry of the stream, or off two.
    assert (row["running"], row["workers"]) == (2, 1)
    assert row["pending"] in (1, 2)
    assert row["oldest_pending_s"] >= 0
    assert worker["worker"] in inspect_text.stdout


def look_after(home: Home, study: str) -> None:
    text, value, inspect_value, wait_value, wait_quiet = home.all(
        f"status {study}", f"status {study} --json", "inspect --json", "--json wait last", "-q wait last"
    )
    assert "finished" in text.stdout.splitlines()[0]
    (status,) = json.loads(value.stdout)
    assert status["state"] == "finished"
    assert status["failures"] == 0
    assert [step["finished"] for step in status["steps"]] == [3, 6, 1]
    assert all(step["mean_s"] > 0 for step in status["steps"])
    assert json.loads(inspect_value.stdout) == {"queues": [], "workers": []}
    assert [one["study"] for one in json.loads(wait_value.stdout)] == [study]
    assert wait_quiet.stdout == f"{study}\n"


def check_files(workspace: Path) -> None:
    def names(folder: str) -> set[str]:
        return {path.name for path in (workspace / folder).iterdir()}

    assert names(".") == {"merlin_info", "mrun_info", "sim", "post", "total"}
    assert {"spec.orig.yaml", "spec.partial.yaml", "spec.expanded.yaml"} <= names("merlin_info")
    assert {str(path.parent.relative_to(workspace)) for path in workspace.rglob("MERLIN_FINISHED")} == {
        *(f"sim/{sample}" for sample in ("0/0", "0/1", "1/0")),
        *(f"post/P.{row}/{sample}" for row in "ab" for sample in ("0/0", "0/1", "1/0")),
        "total",
    }
    assert names("sim/0/1") == {"sim.sh", "sim.out", "sim.err", "MERLIN_FINISHED", "started"}
    assert names("post/P.a/1/0") == {"post_P.a.sh", "post_P.a.out", "post_P.a.err", "MERLIN_FINISHED"}
    assert (workspace / "sim/0/1/sim.out").read_text() == "2-two\n"
    assert (workspace / "post/P.b/1/0/post_P.b.out").read_text() == "b 3-three\n"
    assert (workspace / "post/P.b/1/0/post_P.b.err").read_text() == "told the other stream\n"
    script = workspace / "sim/0/0/sim.sh"
    assert script.read_text().startswith("#!/bin/bash\n\ntouch started\n")
    assert script.stat().st_mode & 0o100
    assert (workspace / "total/total.out").read_text().splitlines() == [
        f"{row} {value}" for row in "ab" for value in ("1-one", "2-two", "3-three")
    ]


@pytest.mark.slow
def test_copies_of_the_spec_can_be_queued_again(home: Home) -> None:
    # Given a study of a spec with variables, one of which --vars set
    home.write(
        "spec.yaml",
        """
        description: {name: copies, description: "$(WORD)"}
        env:
          variables: {OUTPUT_PATH: ./studies, WORD: hello, BOTH: "$(WORD) world"}
        study:
          - name: say
            description: x
            run: {cmd: 'echo $(BOTH) from $(SPECROOT) $(WORKSPACE); cat "$(MERLIN_SPEC_EXECUTED_RUN)" > copy'}
        """,
    )
    home.queue("spec.yaml", "--vars", "WORD=good bye")
    (workspace,) = home.study_dirs()
    info = workspace / "merlin_info"
    # I expect the original as it was, and what the order said and what tokens mean in the other two
    assert (info / "spec.orig.yaml").read_bytes() == (home.work / "spec.yaml").read_bytes()
    partial = (info / "spec.partial.yaml").read_text()
    assert "WORD: good bye" in partial
    assert "BOTH: $(WORD) world" in partial
    expanded = (info / "spec.expanded.yaml").read_text()
    assert "BOTH: good bye world" in expanded
    assert f"echo good bye world from {home.work} $(WORKSPACE)" in expanded
    # When the expanded one is queued from another place, it is the same study
    again = home.json("queue", str(info / "spec.expanded.yaml"), "-o", str(home.work / "again"))
    assert again["script_count"] == 1
    assert home.work_off("merlin").returncode == 0
    (second,) = home.study_dirs("again")
    assert (second / "say/say.out").read_text() == f"good bye world from {home.work} {second}/say\n"
    assert "WORD: good bye" in (workspace / "say/copy").read_text()


def test_two_workers_share_a_study_and_run_nothing_twice(home: Home) -> None:
    home.write("samples.csv", "".join(f"{number}\n" for number in range(60)))
    home.write(
        "spec.yaml",
        """
        description: {name: shared, description: x}
        env: {variables: {OUTPUT_PATH: ./studies}}
        study:
          - name: sim
            description: x
            run: {cmd: "echo $(X); sleep 0.01", task_queue: sim}
        merlin: {samples: {file: samples.csv, column_labels: [X]}}
        """,
    )
    home.queue("spec.yaml")
    workers = [home.start("work", "--queues", "sim", "--exit-when-done", "--slots", "2") for _ in range(2)]
    assert [ended(worker).returncode for worker in workers] == [0, 0]
    (workspace,) = home.study_dirs()
    outputs = [path.read_text() for path in workspace.glob("sim/*/*/sim.out")]
    assert sorted(map(int, "".join(outputs).split())) == list(range(60))
