"""`mrun submit`: a command without a YAML becomes a study like any other, and gets its arguments as they were typed."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mrun.engine.plan.model import Plan, SampleTable
from mrun.engine.steps.compile import compile_plan
from mrun.engine.steps.render import NodeText
from mrun.engine.studies.enqueue import Order
from mrun.engine.studies.submission import Submission, check_submission
from tests.cli.homes import Home

SHOW_ID = ("--", "bash", "-c", "echo $MRUN_ARRAY_ID/$MRUN_ARRAY_COUNT/$MRUN_SAMPLE_ID")


def submit(home: Home, *words: str) -> dict[str, Any]:
    """Submit to a queue of the study's own name; the queued study."""
    # --json stands in front: behind the command it would be the command's.
    queue = words[words.index("--name") + 1]
    queued: dict[str, Any] = json.loads(home.ok("submit", "--json", "--queue", queue, *words))
    return queued


def outputs(queued: dict[str, Any]) -> list[str]:
    """What its scripts printed, in the order of their numbers."""
    directory = Path(queued["workspace"], "run")
    return [path.read_text() for path in sorted(directory.rglob("run.out"))]


# --------------------------------------------------------------------------------------------------------- arguments


def scripts_of(submission: Submission, *rows: tuple[str, ...]) -> list[bytes]:
    """The scripts, as a worker would write them."""
    checked = check_submission(submission, Order(""), os.environ)
    table = SampleTable("npy", "", len(rows), submission.columns, 0, 0) if rows else None
    plan: Plan = compile_plan(checked.resolved, table)
    text = NodeText(plan, 0)
    return [text.script_text(i, row).encode("utf-8", "surrogateescape") for i, row in enumerate(rows or ((),))]


def run_script(script: bytes) -> bytes:
    done = subprocess.run(["bash"], input=script, capture_output=True, check=True, env={"PATH": os.environ["PATH"]})
    assert done.stderr == b""
    return done.stdout


NASTY = [
    *("", " ", "a  b", "\t", "\n", "a\n", "\n\na", "'", '"', "'\"'", "\\", "\\\\", "a\\", "\\n", "$", "$HOME", "${X}"),
    *("$(X)", "$(SPECROOT)", "\\$(X)", "\\\\$(X)", "$$(X)", "$('X)", "'$(X)'", "$(MERLIN_SAMPLE_ID)", "$(date)", "`x`"),
    *("$((1+1))", "a$", "$'a'", '$"a"', "!!", "#", "a #b", ": ", "- a", "*", "?", "[a]", "~", "{a,b}", ";", "&", "|"),
    *("-n", "--", "A=b", "EOF", "end", "\r", "a\r\nb", "\x01", "\x7f", "\x85", "\u2028", "\ufeff", "é", "雪", "😀"),
    *(os.fsdecode(b"\xff"), os.fsdecode(b"a\xc3'\xe9"), os.fsdecode(b"$\xff(X)"), "x" * 5000),
]
ARGUMENTS = (
    st.sampled_from(NASTY)
    | st.lists(st.sampled_from([*"a'\"\\$(){}X`! \n\r\t#:-", "$(", "é"]), max_size=20).map("".join)
    | st.binary(max_size=20).map(lambda data: os.fsdecode(data.replace(b"\0", b"")))
)


@settings(max_examples=40)
@given(st.lists(ARGUMENTS, min_size=1, max_size=30))
@example(NASTY)
def test_arguments_keep_their_exact_text(arguments: list[str]) -> None:
    submission = Submission("exact", ("printf", r"%s\0", *arguments), os.sep)
    (script,) = scripts_of(submission)
    assert run_script(script) == b"".join(os.fsencode(argument) + b"\0" for argument in arguments)


CELLS = (
    st.sampled_from([text for text in NASTY if text.isprintable() or text in ("\n", "a\n", "a\r\nb")])
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
    | st.lists(st.sampled_from([*"a'\"\\$(){}AB`! \n\r\t#", "$(A)", "end"]), max_size=20).map("".join)
)


@settings(max_examples=25)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=3))
def test_cells_reach_the_command_as_they_are_whatever_they_hold(rows: list[tuple[str, str]]) -> None:
    rows = [(a.encode(errors="ignore").decode(), b.encode(errors="ignore").decode()) for a, b in rows]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "cells.npy")
        np.save(path, np.array([["a", "b"]] * len(rows)))
        submission = Submission("cells", ("printenv", "-0", "A", "B"), directory, None, str(path), ("A", "B"))
        for script, row in zip(scripts_of(submission, *rows), rows, strict=True):
            assert run_script(script) == "".join(f"{cell}\0" for cell in row).encode()


@pytest.mark.parametrize("name", ["a directory", "it's", "$(X)", "-n", "new\nline", "é"])
def test_command_runs_where_it_was_submitted_whatever_the_directory_is_called(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    (script,) = scripts_of(Submission("where", ("printenv", "PWD"), str(directory)))
    assert run_script(script) == f"{directory}\n".encode()


# --------------------------------------------------------------------------------------------------------- studies


@pytest.mark.slow
def test_command_runs_once_where_it_was_submitted(shared_home: Home) -> None:
    queued = submit(shared_home, "--name", "once", "--", "bash", "-c", 'echo "$PWD" "$1"; echo oops >&2', "me", "a  b")
    assert (queued["name"], queued["script_count"], queued["queues"]) == ("once", 1, ["once"])
    assert Path(queued["workspace"]).parent == shared_home.work
    assert shared_home.work_off("once").returncode == 0
    assert outputs(queued) == [f"{shared_home.work} a  b\n"]
    assert Path(queued["workspace"], "run", "run.err").read_text() == "oops\n"
    # The study is like any other
    (status,) = shared_home.json("status", queued["study"])
    assert (status["state"], status["steps"][0]["finished"]) == ("finished", 1)


@pytest.mark.parametrize(
    ("name", "array", "ids"),
    [("plain", "1-3", [1, 2, 3]), ("steps", "5-30:10", [5, 15, 25]), ("several", "7,1-3:2,100", [7, 1, 3, 100])],
)
def test_array_runs_the_command_once_for_each_id(shared_home: Home, name: str, array: str, ids: list[int]) -> None:
    queued = submit(shared_home, "--name", name, "--array", array, *SHOW_ID)
    assert (queued["script_count"], queued["sample_count"]) == (len(ids), len(ids))
    shared_home.work_off(name)
    assert outputs(queued) == [f"{number}/{len(ids)}/{sample}\n" for sample, number in enumerate(ids)]


def test_array_of_one_hundred_million_is_queued_at_once_and_takes_no_room(shared_home: Home) -> None:
    queued = submit(shared_home, "--name", "huge", "--array", "1-100000000", "--", "true")
    assert queued["script_count"] == 100_000_000
    used = sum(path.stat().st_blocks * 512 for path in Path(queued["workspace"]).rglob("*"))
    assert used < 1_000_000
    assert shared_home.run("purge", queued["study"], "--yes").returncode == 0


@pytest.mark.slow
def test_kept_spec_can_be_checked_and_queued_again(shared_home: Home) -> None:
    queued = submit(shared_home, "--name", "again 2.0", "--array", "3,1", "--walltime", "10:00", *SHOW_ID)
    spec = next(Path(queued["workspace"], "merlin_info").glob("*.orig.yaml"))
    assert spec.name == "again 2.0.orig.yaml"
    assert shared_home.json("check", str(spec))["name"] == "again 2.0"
    second = shared_home.json("queue", str(spec))
    shared_home.work_off("again 2.0")
    assert outputs(queued) == outputs(second) == ["3/2/0\n", "1/2/1\n"]


@pytest.mark.slow
def test_rows_of_a_table_are_environment_variables(shared_home: Home) -> None:
    (shared_home.work / "points.csv").write_text('1,"two  words"\n# a comment\n3,"$(id) \'""`\\n"\n')
    command = ("--", "bash", "-c", 'printf "%s|%s|%s" "$X" "$NAME" "$MRUN_SAMPLE_ID"')
    named = submit(shared_home, "--name", "named", "--samplesfile", "points.csv", "--column-labels", "X,NAME", *command)
    shared_home.work_off("named")
    assert outputs(named) == ["1|two  words|0", "3|$(id) '\"`\\n|1"]
    np.save(shared_home.work / "points.npy", np.arange(6.0).reshape(2, 3))
    words = ("--", "bash", "-c", "echo $C1 $C2 $C3")
    unnamed = submit(shared_home, "--name", "unnamed", "--samplesfile", "points.npy", *words)
    shared_home.work_off("unnamed")
    assert outputs(unnamed) == ["0.0 1.0 2.0\n", "3.0 4.0 5.0\n"]


def test_directory_that_the_worker_does_not_have_fails_the_sample_and_says_so(shared_home: Home) -> None:
    gone = shared_home.work / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["mrun", "submit", "--name", "lost", "--queue", "lost", "-o", "..", "--json", "--", "true"],
        cwd=gone, env=shared_home.environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    gone.rmdir()
    shared_home.work_off("lost")
    (workspace,) = shared_home.work.glob("lost_*")
    told = (workspace / "run" / "run.err").read_text()
    assert f"{gone}: No such file or directory" in told
    assert "can't run in the directory where it was submitted" in told
    assert '"lost"' in done.stdout
    assert shared_home.json("status", str(workspace))[0]["failures"] == 1


def test_signal_that_ends_the_command_is_seen_as_one(shared_home: Home) -> None:
    queued = submit(shared_home, "--name", "killed", "--max-fails", "50%", "--", "bash", "-c", "kill -SEGV $$")
    shared_home.work_off("killed")
    assert "killed by SIGSEGV" in shared_home.ok("status", queued["study"])


def test_walltime_ends_a_command(shared_home: Home) -> None:
    queued = submit(shared_home, "--name", "late", "--time-limit", "1", "--", "sleep", "60")
    shared_home.work_off("late")
    assert "longer than its walltime of 1 s" in shared_home.ok("status", queued["study"])


def test_words_behind_the_command_are_the_commands_own(shared_home: Home) -> None:
    queued = submit(shared_home, "--name", "own", "echo", "--json", "-q", "--name", "x")
    shared_home.work_off("own")
    assert outputs(queued) == ["--json -q --name x\n"]


def test_quiet_prints_the_id_only(shared_home: Home) -> None:
    done = shared_home.run("submit", "--name", "quiet", "-q", "--", "true")
    assert (done.returncode, len(done.stdout.split())) == (0, 1)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--name", "x"), 2, "There is no command to run."),
        (("--name", "x", "--"), 2, "mrun submit --name sweep --array 1-100"),
        (("--", "true"), 2, "Missing option '--name'"),
        (("--name", "x", "--array", "1-3", "--samplesfile", "s.csv", "true"), 2, "can't be given both"),
        (("--name", "x", "--array", "1-x", "true"), 2, "'1-x' of the array '1-x' is neither"),
        (("--name", "x", "--array", "1-x", "true"), 2, "1,5,7-9"),
        (("--name", "x", "--column-labels", "A", "true"), 2, "without --samplesfile"),
        (("--name", "x/y", "true"), 2, "holds '/'"),
        (("--name", "", "true"), 2, "name"),
        (("--name", "x", "--queue", "$(Q)", "true"), 2, "'$(Q)' is not a known name"),
        (("--name", "x", "--walltime", "soon", "true"), 2, "'soon'"),
        (("--name", "x", "--max-fails", "all", "true"), 2, "all"),
        (("--name", "x", "--priority", "2000", "true"), 2, "-1000"),
        (("--name", "x", "--after", "nosuch", "true"), 4, "knows no study 'nosuch'"),
        (("--name", "x", "--samplesfile", "none.csv", "true"), 3, "There is no sample file"),
        (("--name", "x", "--samplesfile", "broken.npy", "true"), 3, "is not a .npy file"),
        (("--name", "x", "--samplesfile", "uneven.csv", "true"), 3, "Line 2"),
        (("--name", "x", "--samplesfile", "two.csv", "--column-labels", "A", "true"), 3, "has 2 columns"),
        (("--name", "x", "--samplesfile", "two.csv", "--column-labels", "A,b-c", "true"), 2, "'b-c' is no name"),
        (("--name", "x", "--samplesfile", "two.csv", "--column-labels", "A,A", "true"), 2, "'A' stands twice"),
        (
            ("--name", "x", "--samplesfile", "two.csv", "--column-labels", "A,MRUN_STUDY", "true"),
            2,
            "mrun or the shell",
        ),
        (("--name", "x", "--samplesfile", "two.csv", "--column-labels", "A,SPECROOT", "true"), 2, "mrun or the shell"),
        (("--name", "x", "--samplesfile", "two.csv", "--column-labels", "A,UID", "true"), 2, "mrun or the shell"),
    ],
)
def test_mistake_is_told_and_makes_nothing(shared_home: Home, words: tuple[str, ...], code: int, message: str) -> None:
    (shared_home.work / "broken.npy").write_text("no")
    (shared_home.work / "uneven.csv").write_text("1,2\n3\n")
    (shared_home.work / "two.csv").write_text("1,2\n")
    done = shared_home.run("submit", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "submitted.yaml" not in done.stderr
    # A study is made only after its workspace
    assert not list(shared_home.work.glob("x_*"))


# --------------------------------------------------------------------------------------------------------- turns


def test_study_begins_when_the_one_that_it_comes_after_has_ended(shared_home: Home) -> None:
    # Given a study that fails, and one that comes after it
    command = ("--", "bash", "-c", "sleep 0.5; date +%s%N; exit 3")
    first = submit(shared_home, "--name", "turn", *command)
    after = submit(shared_home, "--name", "turn", "--after", first["study"], "--", "date", "+%s%N")
    assert shared_home.json("status", after["study"])[0]["state"] == "held"
    # When both are worked off at once, I expect the second one to begin after the end of the first
    shared_home.work_off("turn", "--slots", "2")
    assert int(outputs(first)[0]) < int(outputs(after)[0])
    assert shared_home.json("status", first["study"])[0]["steps"][0]["failed"] == 1


@pytest.mark.slow
def test_study_after_one_that_has_ended_begins_at_once(shared_home: Home) -> None:
    first = submit(shared_home, "--name", "past", "--", "true")
    shared_home.work_off("past")
    shared_home.write("past.yaml", """
        description: {name: past, description: x}
        study: [{name: a, description: x, run: {cmd: echo a, task_queue: past}}]
    """)  # fmt: skip
    after = shared_home.json("queue", "past.yaml", "--after", first["study"])
    assert shared_home.json("status", after["study"])[0]["state"] == "running"
    assert shared_home.work_off("past").returncode == 0


@pytest.mark.slow
def test_study_with_the_higher_priority_is_claimed_first(shared_home: Home) -> None:
    shared_home.write("prio.yaml", """
        description: {name: prio, description: x}
        study: [{name: a, description: x, run: {cmd: date +%s%N, task_queue: prio}}]
    """)  # fmt: skip
    low = shared_home.json("queue", "prio.yaml", "--priority", "-5")
    plain = submit(shared_home, "--name", "prio", "--", "date", "+%s%N")
    high = submit(shared_home, "--name", "prio", "--priority", "10", "--", "date", "+%s%N")
    shared_home.work_off("prio", "--slots", "1")
    printed = [int(next(Path(one["workspace"]).rglob("*.out")).read_text()) for one in (high, plain, low)]
    assert printed == sorted(printed)
    assert [shared_home.json("status", one["study"])[0]["priority"] for one in (high, plain, low)] == [10, 0, -5]


def test_after_several_studies_is_refused(shared_home: Home) -> None:
    submit(shared_home, "--name", "one", "--", "true")
    submit(shared_home, "--name", "two", "--", "true")
    done = shared_home.run("submit", "--name", "three", "--after", "all", "--", "true")
    assert (done.returncode, "studies" in done.stderr) == (2, True)
