"""docs/glossary.md: its words stand once and in order, and public classes have no name of those that are not used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
#: Words that name nothing any more.
ABOLISHED = {"desk", "held", "kept", "loose", "mend", "nudge", "pulse", "sighting", "stock", "tend", "told", "said"}
#: Public classes that still have one. The list only gets shorter.
STILL = {"Kept", "KeptAlloc", "Told"}


def words() -> list[str]:
    text = (TOP / "docs" / "glossary.md").read_text("utf-8").partition("## Words that are not used")[0]
    return re.findall(r"^\| ([a-z][a-z ]*) \|", text, re.MULTILINE)[1:]


def classes() -> Iterator[str]:
    for folder in ("engine", "cli", "launchers"):
        for path in sorted((TOP / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    yield node.name


def test_words_stand_once_and_in_order() -> None:
    assert words() == sorted(set(words()))
    assert len(words()) > 40


def test_no_public_class_has_a_name_that_is_not_used() -> None:
    found = {name for name in classes() if {word.lower() for word in re.findall("[A-Z][a-z]*", name)} & ABOLISHED}
    assert found == STILL
