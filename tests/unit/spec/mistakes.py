"""Specs with one mistake, block by block, and what is said of a mistake."""

from __future__ import annotations

from collections.abc import Sequence

from mrun.engine.errors import Problem

DESCRIPTION = """\
description:
  name: study
  description: a study
"""
STUDY = """\
study:
  - name: sim
    description: simulates
    run:
      cmd: echo
"""


def spec_of(*blocks: str) -> str:
    """A spec of these blocks, with a description and a study where they give none."""
    text = "".join(block if block.endswith("\n") else block + "\n" for block in blocks)
    if "description:\n  name" not in text:
        text = DESCRIPTION + text
    return text if "\nstudy:" in text else text + STUDY


def run_with(line: str) -> str:
    return STUDY + f"      {line}\n"


def two_steps(first: str = "", second: str = "", names: tuple[str, str] = ("sim", "post")) -> str:
    return f"""\
study:
  - name: {names[0]}
    description: d
    run: {{cmd: echo{first}}}
  - name: {names[1]}
    description: d
    run: {{cmd: echo{second}}}
"""


def assert_one_problem(problems: Sequence[Problem], message: str, where: str, hint: str) -> None:
    """One problem, at its place, in one sentence."""
    assert [(problem.where, message in problem.message) for problem in problems] == [(f"spec.yaml:{where}", True)], (
        problems
    )
    assert hint in problems[0].hint
    assert "\n" not in problems[0].message
    assert problems[0].message.endswith(".")
