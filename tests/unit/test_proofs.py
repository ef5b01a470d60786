"""docs/tests.md: each promise has a test that proves it, each test that it names exists, and ¹ agrees with its mark."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Tests with one of these marks are not part of the README's command.
LEFT_OUT = {"slow", "slurm"}
PROMISE = re.compile(r"^\*\*(.+?)\*\*", re.MULTILINE | re.DOTALL)
PROOF = re.compile(r"^- `(tests/[\w/]+\.py)::(\w+)`( ¹)?", re.MULTILINE)


def between(page: str, start: str, end: str) -> str:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return text.partition(f"\n## {start}\n")[2].partition(f"\n## {end}\n")[0]


def sections() -> dict[str, str]:
    """The proofs by the promise above them."""
    parts = between("tests.md", "Which test proves which promise", "Tests that were taken out").split("\n### ")[1:]
    return {part.partition("\n")[0]: part for part in parts}


def promises() -> list[str]:
    found = PROMISE.findall(between("promises.md", "It promises", "It does not promise"))
    return [" ".join(text.split()).rstrip(".") for text in found]


def proofs() -> list[tuple[str, str, bool]]:
    found = {match for section in sections().values() for match in PROOF.findall(section)}
    return [(path, name, bool(sign)) for path, name, sign in sorted(found)]


def marks_of(path: str, name: str) -> set[str] | None:
    """The names of a test's marks as they stand above it; None if there is no such test."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return {one.attr for one in node.decorator_list if isinstance(one, ast.Attribute)}
    return None


def test_every_promise_has_a_section_and_every_section_is_of_a_promise() -> None:
    assert len(promises()) >= 13
    assert list(sections()) == promises()


@pytest.mark.parametrize("promise", promises())
def test_a_promise_has_a_proof_and_one_of_them_is_quick(promise: str) -> None:
    found = PROOF.findall(sections()[promise])
    assert len(found) == sections()[promise].count("\n- "), "a line names no test"
    assert [name for _, name, sign in found if not sign], "the README's command proves nothing of it"


@pytest.mark.parametrize(("path", "name", "is_left_out"), proofs())
def test_a_proof_exists_and_its_sign_agrees_with_its_mark(path: str, name: str, is_left_out: bool) -> None:
    marks = marks_of(path, name)
    assert marks is not None, f"there is no test {name} in {path}"
    is_of_slurm = path.endswith(("_slurm.py", "_real.py"))
    assert is_left_out == bool(marks & LEFT_OUT or is_of_slurm or path.startswith("tests/chaos/"))
