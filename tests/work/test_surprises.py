"""What surprised people who tried mrun: each was reported once, and must not come back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.lab import BIN, Lab

SPEC = """
    description: {name: small, description: d}
    env: {sources: [setup.sh]}
    study:
        - {name: a, description: d, run: {cmd: "echo $FROM_SETUP", task_queue: "my queue"}}
        - {name: z, description: d, run: {cmd: "echo the last step", depends: [a], task_queue: "my queue"}}
"""


@pytest.fixture
def spec(lab: Lab) -> Path:
    (lab.directory / "setup.sh").write_text("FROM_SETUP=found\n")
    return lab.spec(SPEC)


def test_relative_file_of_sources_is_that_beside_the_spec(lab: Lab, spec: Path) -> None:
    outputs = lab.json("run", spec)["outputs"]
    workspace = Path(lab.json("status")[0]["workspace"])
    assert (workspace / "a" / "a.out").read_text() == "found\n"
    assert outputs == {str(workspace / "z" / "z.out"): "the last step\n"}


def test_directory_that_was_removed_is_one_sentence(lab: Lab) -> None:
    gone = lab.directory / "gone"
    gone.mkdir()
    for words in (["status"], ["queue", "spec.yaml"], ["submit", "--name", "x", "--", "true"]):
        ended = subprocess.run(
            ["/bin/sh", "-c", 'rmdir "$1"; shift; exec "$@"; ', "sh", str(gone), BIN / "mrun", *words],
            cwd=gone, env=lab.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.startswith("error: The current directory does not exist any more.\n")
        gone.mkdir()


def test_name_of_a_workspace_in_the_current_directory_is_enough(lab: Lab, spec: Path) -> None:
    study = lab.queue(spec)
    name = Path(lab.study(study)["workspace"]).name
    assert lab.json("status", name)[0]["study"] == study
    assert lab.json("hold", name) == [{"study": study, "status": "ok"}]
    assert lab.json("cancel", name)[0]["study"] == study


def test_queue_whose_name_needs_quotes_is_shown_with_them(lab: Lab, spec: Path) -> None:
    lab.queue(spec)
    shown = subprocess.run(
        [BIN / "mrun", "queue", spec],
        cwd=lab.directory,
        env=lab.environment,
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert "mrun work --queues 'my queue'" in shown
    lab.spec(SPEC.replace("my queue", "a,b"))
    problems = lab.json("check", "spec.yaml", code=3)["error"]["problems"]
    assert ["holds a comma" in problem["message"] for problem in problems] == [True, True]


def test_lines_of_a_hostile_file_do_not_reach_the_terminal_as_they_are(lab: Lab) -> None:
    (lab.directory / "bad.yaml").write_bytes(b"a: \x1b[31mred\x07\n")
    ended = subprocess.run(
        [BIN / "mrun", "check", "bad.yaml"], cwd=lab.directory, env=lab.environment, capture_output=True, check=False
    )
    assert ended.returncode == 3
    assert b"\x1b" not in ended.stderr
    assert b"\x07" not in ended.stderr


def test_reason_of_a_stopped_study_names_the_step(lab: Lab) -> None:
    study = lab.queue(
        lab.spec("""
        description: {name: stops, description: d}
        study: [{name: first, description: d, run: {cmd: "exit 102"}}]
    """)
    )
    lab.work("--queues", "merlin")
    assert lab.wait_for_end(study)["why"] == "sample 0 of step 'first' stopped the study"


@pytest.mark.slow
def test_verb_for_one_study_refuses_several(lab: Lab, spec: Path) -> None:
    for _ in range(2):
        lab.queue(spec)
    for words in (["restart", "all"], ["retry", "all"], ["add", "all", "--samplesfile", "setup.sh"], ["logs", "all"]):
        assert lab.json(*words, code=2)["error"]["message"] == "'all' means 2 studies."
