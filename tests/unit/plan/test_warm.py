"""What forbids `warm: true`, and where it is told."""

from __future__ import annotations

from typing import Any

import pytest

from mrun.engine.errors import SpecError
from mrun.engine.spec.model import Batch, Text
from tests.unit.plan.specs import make_spec, parameter, plan, problems, step


def refusals(cmd: str, **run: Any) -> list[str]:
    return problems(make_spec(step("s", cmd, warm=True, **run)))


@pytest.mark.parametrize(
    ("cmd", "found"),
    [
        ("echo $$", "$$"),
        ("echo ${$}", "${$}"),
        ("kill $PPID", "PPID"),
        ("echo ${BASHPID}", "BASHPID"),
        ("cat /proc/self/stat", "/proc/"),
        ("sleep 1 &\nwait $!", "$!"),
        ('cd "$(dirname "$0")"', "$0"),
        ("echo ${0##*/}", "${0"),
        ("echo $_", "$_"),
        ("echo ${BASH_SOURCE[0]}", "BASH_SOURCE"),
        ("echo $SHLVL", "SHLVL"),
        ("caller", "caller"),
        ("echo $FUNCNAME", "FUNCNAME"),
        ("set -ex", "set -ex"),
        ("set -e -o xtrace", "set -e -o xtrace"),
        ("echo $-", "$-"),
        ("set -m", "set -m"),
        ("jobs", "jobs"),
        ("x=$(jobs -p)", "jobs"),
        ("sleep 1 & fg", "fg"),
        ("trap 'rm x' EXIT", "trap"),
        ("true\ntimes", "times"),
        ("echo $SECONDS", "SECONDS"),
        ("set | grep X", "set"),
        ("x=1; export -p", "export -p"),
        ("declare -p", "declare -p"),
        ("return 3", "return"),
        ("if true; then return; fi", "return"),
        ("f() {\n  return 1\n}\nreturn", "return"),
    ],
)
def test_a_script_that_could_tell_can_not_be_warm(cmd: str, found: str) -> None:
    (message,) = refusals(cmd)
    assert message.startswith(f"Step 's' can't be warm: its cmd holds '{found}', and ")


@pytest.mark.parametrize(
    "cmd",
    [
        "true",
        "set -eu\necho $HOME ${X:-1} $# $? $1",
        "make --jobs=4 -j 2 ; python jobs.py --times 3 ./trap /opt/trap/x",
        "sleep 1 &\nwait",
        "f() { return 1; }\nf",
        "f() {\n  if true; then\n    return 1\n  fi\n}\nfunction g {\n  return 2\n}\ng",
        "exec ./sim <<EOF\nx $X\nEOF",
        "cd sub || exit 3",
        "export X=1; declare -i y=2; set -- a b; set +e",
        "echo runtimes, settrap, my_jobs=3",
    ],
)
def test_other_scripts_may_be_warm(cmd: str) -> None:
    made = plan(make_spec(step("s", cmd, warm=True), step("t", cmd)))
    assert [one.is_warm for one in made.steps] == [True, False]


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash", "/usr/local/bin/dash", "/usr/bin/env bash"])
def test_shells_that_can_be_warm(shell: str) -> None:
    assert refusals("true", shell=shell) == []


@pytest.mark.parametrize(
    "shell",
    ["/usr/bin/env python3", "/bin/csh", "/bin/bash -l", "/bin/sh -e", "/usr/bin/env -S bash", "/bin/bashful", "bash"],
)
def test_shells_that_can_not(shell: str) -> None:
    message = f"Step 's' can't be warm: its shell is '{shell}', and not the path of sh, dash or bash without options."
    assert refusals("true", shell=shell) == [message]
    batch = Batch(shell=Text(shell, 3, 4))
    assert problems(make_spec(step("s", warm=True), batch=batch)) == [message]


def test_each_row_has_a_shell_that_can() -> None:
    rows = (parameter("P", ["/bin/sh", "/bin/csh"]),)
    (message,) = problems(make_spec(step("s", shell="$(P)", warm=True), parameters=rows))
    assert "'/bin/csh'" in message


def test_the_place_is_told_to_the_character() -> None:
    with pytest.raises(SpecError) as caught:
        plan(make_spec(step("s", "true", restart="true\nx=$(jobs) # $$", warm=True)))
    jobs, own = caught.value.problems
    assert "its restart holds 'jobs'" in jobs.message
    assert "its restart holds '$$'" in own.message
    assert (jobs.column, own.column, jobs.line) == (5, 13, own.line)
    assert "Remove 'warm: true'" in own.hint


def test_what_a_variable_brings_along_is_seen() -> None:
    (message,) = problems(make_spec(step("s", "$(CLEAN)", warm=True), variables={"CLEAN": "trap 'rm x' EXIT"}))
    assert "holds 'trap'" in message


def test_warm_may_be_decided_by_a_variable() -> None:
    for word, is_warm in (("yes", True), ("off", False)):
        made = plan(make_spec(step("s", settings={"warm": "$(W)"}), variables={"W": word}))
        assert made.steps[0].is_warm is is_warm
    (message,) = problems(make_spec(step("s", settings={"warm": "$(W)"}), variables={"W": "hot"}))
    assert message == "'warm' of step 's' must be yes or no, not 'hot'."
