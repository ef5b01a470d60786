"""What is wrong is told once, in its place, with the documented exit code; and nothing was changed by the attempt."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cli.homes import Home

#: A good spec; the cases below change one line of it.
SPEC = """\
description: {name: good, description: x}
env:
  variables: {OUTPUT_PATH: ./studies, N: 3}
global.parameters:
  A: {values: [1, 2], label: A.%%}
  B: {values: [3, 4], label: B.%%}
study:
  - name: sim
    description: x
    run:
      cmd: echo $(X) $(A) $(B)
      task_queue: sim
  - name: post
    description: x
    run:
      cmd: echo
      depends: [sim_*]
merlin:
  samples:
    file: good.csv
    column_labels: [X, Y]
"""

#: Name → (the line of SPEC that is changed, what it becomes, the place in the file, what is said).
MISTAKES = {
    "malformed YAML": ("    run:\n      cmd: echo\n", "    run: [\n      cmd: echo\n", r"\d+:\d+", "YAML"),
    "unknown step in depends": ("[sim_*]", "[sin_*]", "17:17", "Did you mean 'sim'"),
    "cycle": ("      task_queue: sim\n", "      task_queue: sim\n      depends: [post]\n", r"\d+:\d+", "sim → "),
    "unknown key": ("task_queue: sim", "task_queu: sim", "12:7", "Did you mean 'task_queue'"),
    "uneven lists": ("values: [3, 4]", "values: [3, 4, 5]", r"\d+:\d+", "3 "),
    "unknown token": ("cmd: echo $(X)", "cmd: echo $(XX)", "11:17", "XX"),
    "no cmd": ("      cmd: echo\n", "", r"\d+:\d+", "cmd"),
}


@pytest.fixture
def quiet_home(shared_home: Home) -> Iterator[Home]:
    """Whatever a test tries: the server holds what it held before, and no workspace was made."""
    shared_home.write("good.csv", "1,2\n3,4\n")
    with shared_home.server() as client:
        before = client.dbsize()
        yield shared_home
        assert client.dbsize() == before == 0
    assert not (shared_home.work / "studies").exists()


def check_refused(home: Home, code: int, *words: str, says: str, where: str = "", command: str = "queue") -> str:
    """Run a command that must be refused; returns what it said."""
    done = home.run(command, *words)
    assert done.returncode == code, f"{done.returncode}\n{done.stderr}"
    assert done.stdout == ""
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    assert "bug in mrun" not in done.stderr
    if where:
        assert re.search(rf"^  at \S*{where}$", done.stderr, re.MULTILINE), done.stderr
    return done.stderr


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_in_a_spec_is_shown_where_it_is(quiet_home: Home, name: str) -> None:
    old, new, where, says = MISTAKES[name]
    assert SPEC.count(old) == 1
    quiet_home.write("bad.yaml", SPEC.replace(old, new))
    check_refused(quiet_home, 3, "bad.yaml", says=says, where=rf"bad\.yaml:{where}")


def test_the_unchanged_spec_is_good(home: Home) -> None:
    home.write("good.csv", "1,2\n3,4\n")
    home.write("good.yaml", SPEC)
    assert home.json("queue", "good.yaml")["script_count"] == 5


def test_all_problems_are_told_at_once_and_json_has_them_as_values(quiet_home: Home) -> None:
    quiet_home.write("bad.yaml", SPEC.replace("task_queue", "task_queu").replace("depends", "dependz"))
    done = quiet_home.run("queue", "bad.yaml", "--json")
    assert done.returncode == 3
    told = json.loads(done.stdout)["error"]
    assert told["exit_code"] == 3
    assert [(problem["line"], problem["column"]) for problem in told["problems"]] == [(12, 7), (17, 7)]
    assert done.stderr == ""


@pytest.mark.parametrize(("content", "says"), [(None, "nosuch.yaml"), ("", "empty"), ("- 1\n", ""), ("\x00", "")])
def test_what_is_no_spec(quiet_home: Home, content: str | None, says: str) -> None:
    if content is not None:
        (quiet_home.work / "none.yaml").write_text(content)
    check_refused(quiet_home, 3, "nosuch.yaml" if content is None else "none.yaml", says=says)


def test_directory_as_spec(quiet_home: Home) -> None:
    check_refused(quiet_home, 3, ".", says="directory")


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("bad.csv", "1,2,3\n4,5,6\n", "3 columns, and column_labels names 2"),
        ("bad.csv", "1,2\n3,4,5\n", "Line 2"),
        ("bad.csv", "", "no samples"),
        ("bad.tab", "1\n2\n", "1 columns, and column_labels names 2"),
        ("bad.npy", np.zeros((4, 3)), "3 columns, and column_labels names 2"),
        ("bad.npy", np.zeros((0, 2)), "no samples"),
        ("bad.npy", "not a table", "not a .npy file"),
        ("nosuch.npy", None, "no sample file"),
    ],
)
def test_unfit_sample_file_is_found_before_anything_is_made(
    quiet_home: Home, file: str, content: object, says: str
) -> None:
    path = quiet_home.work / file
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif content is not None:
        path.write_text(str(content))
    quiet_home.write("bad.yaml", SPEC.replace("good.csv", file))
    check_refused(quiet_home, 3, "bad.yaml", says=says)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["good.yaml", "--vars", "N"], 2, "--vars takes NAME=VALUE, not 'N'"),
        (["good.yaml", "--vars", "M=4"], 3, "--vars sets 'M'"),
        (["good.yaml", "--namespace", "a b"], 2, "namespace"),
        (["good.yaml", "--broker", "http://x"], 2, "http"),
        (["good.yaml", "--broker", "nonsense"], 2, "nonsense"),
        (["good.yaml", "-o", "good.yaml/below"], 3, "can't be made"),
        ([], 2, "SPEC"),
        (["good.yaml", "more"], 2, "more"),
    ],
)
def test_words_that_do_not_fit(quiet_home: Home, words: list[str], code: int, says: str) -> None:
    quiet_home.write("good.yaml", SPEC)
    check_refused(quiet_home, code, *words, says=says)


def test_password_on_the_command_line_is_refused_and_not_repeated(quiet_home: Home) -> None:
    quiet_home.write("good.yaml", SPEC)
    told = check_refused(quiet_home, 2, "good.yaml", "--broker", "redis://me:s3cret@host:1", says="MRUN_PASSWORD")
    assert "s3cret" not in told


@pytest.mark.parametrize(
    ("command", "url"),
    [
        ("queue", "redis://127.0.0.1:1"),
        ("run", "unix:///nowhere/s.sock"),
        ("work", "redis://127.0.0.1:1"),
        ("status", "unix:///nowhere/s.sock"),
    ],
)
def test_server_that_does_not_answer(quiet_home: Home, command: str, url: str) -> None:
    quiet_home.write("good.yaml", SPEC)
    began = time.monotonic()
    words = {"work": ["--queues", "sim"], "status": []}.get(command, ["good.yaml"])
    check_refused(quiet_home, 5, *words, "--broker", url, says=url, command=command)
    assert time.monotonic() - began < 8


def test_failing_generate_shows_the_end_of_what_it_printed(shared_home: Home) -> None:
    shared_home.write(
        "bad.yaml",
        SPEC.replace("./studies", "./generated").replace("good.csv", "made.csv")
        + "    generate: {cmd: 'echo on the way; echo no such disk >&2; exit 3'}\n",
    )
    told = check_refused(shared_home, 3, "bad.yaml", says="ended with exit code 3")
    assert "no such disk" in told
    (workspace,) = shared_home.study_dirs("generated")
    assert f"'{workspace}/merlin_info'" in told
    assert (workspace / "merlin_info/cmd.out").read_text() == "on the way\n"
    assert shared_home.json("status") == []


def test_generate_that_makes_nothing(shared_home: Home) -> None:
    shared_home.write(
        "bad.yaml",
        SPEC.replace("./studies", "./generated").replace("good.csv", "made.csv") + "    generate: {cmd: 'true'}\n",
    )
    check_refused(shared_home, 3, "bad.yaml", says="made no '")


@pytest.mark.slow
def test_large_text_table_that_is_wrong_at_its_end_leaves_no_workspace(quiet_home: Home) -> None:
    # More than is read twice, so that the workspace is there when the mistake is found.
    Path(quiet_home.work, "large.csv").write_text("12345,67890\n" * 800_000 + "1,2,3\n")
    quiet_home.write("bad.yaml", SPEC.replace("good.csv", "large.csv").replace("./studies", "./large"))
    check_refused(quiet_home, 3, "bad.yaml", says="Line 800001")
    assert quiet_home.study_dirs("large") == []


def test_wrong_settings_file_is_told_with_its_line(quiet_home: Home) -> None:
    settings = quiet_home.write("mrun.toml", "namespace = 'x'\nlese_s = 3\n")
    try:
        check_refused(quiet_home, 3, says="lese_s", where=r"mrun\.toml:2", command="status")
    finally:
        settings.unlink()
