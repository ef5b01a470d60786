"""Names that are nearly ours, and what is left to the shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrun.engine.errors import SpecError
from mrun.engine.studies.enqueue import Order, check

SPEC = """
description: {name: slips, description: names that are nearly ours}
env: {variables: {n_runs: 3, TOOL: "${HOME_OF_TOOL:-/opt/tool}"}}
study:
  - name: simulate
    description: a step
    run: {cmd: CMD}
"""


def warnings_of(directory: Path, cmd: str) -> list[str]:
    path = directory / "spec.yaml"
    path.write_text(SPEC.replace("CMD", f"'{cmd}'"))
    found = check(Order(str(path)), {"PATH": "/usr/bin:/bin"}, str(directory)).warnings
    return [text.partition(": ")[2] for text in found]


@pytest.mark.parametrize(
    ("cmd", "expected"),
    [
        ("echo $(n_run)", ["'$(n_run)' is left to the shell. Did you mean 'n_runs'?"]),
        (
            "ls $(simulate.workspce)",
            ["'$(simulate.workspce)' is left to the shell. Did you mean 'simulate.workspace'?"],
        ),
        # A command on PATH, words that are near nothing, and what holds blanks are the shell's
        ("echo $(date)", []),
        ("echo $(qqq)", []),
        ("echo $(cat n_run)", []),
        ("echo $(n_runs) $(TOOL)", []),
    ],
)
def test_word_that_is_nearly_a_name_is_a_warning(tmp_path: Path, cmd: str, expected: list[str]) -> None:
    assert warnings_of(tmp_path, cmd) == expected


def test_problems_of_all_rooms_are_told_at_once_in_file_order(tmp_path: Path) -> None:
    # Given a spec with an unknown key, an unknown token, an unknown step, and a wrong number
    path = tmp_path / "spec.yaml"
    text = SPEC.replace("{cmd: CMD}", "{cmd: echo $(XX),\n          depends: [simulat],\n          max_retries: many}")
    path.write_text(text.replace("study:", "batsch: {}\nstudy:"))
    with pytest.raises(SpecError) as caught:
        check(Order(str(path)), {}, str(tmp_path))
    found = [(problem.line, problem.message) for problem in caught.value.problems]
    assert [line for line, _ in found] == [4, 8, 9, 10]
    assert ["batsch" in found[0][1], "XX" in found[1][1], "simulat" in found[2][1], "many" in found[3][1]] == [True] * 4
