"""The scanner: what is a token, and what is text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrun.engine.language.names import RESERVED
from mrun.engine.language.tokens import Scanner, Use, safe_name
from mrun.engine.spec.model import Text
from mrun.engine.spec.names import RESERVED_NAMES


def names(value: str, step_names: tuple[str, ...] = ()) -> list[str]:
    return [part.name for part in Scanner(step_names).scan(Text(value)) if isinstance(part, Use)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", []),
        ("plain $X ${X} `x`", []),
        ("$(A)", ["A"]),
        ("a$(A)b$(B)c", ["A", "B"]),
        ("$(echo $(A))", ["A"]),
        ("$(cat x)", ["cat x"]),
        ("$((1 + 2))", []),
        ("$()", []),
        (r"\$(A)", []),
        (r"\\$(A)", ["A"]),
        (r"\\\$(A)", []),
        ("$(A", []),
        ("$(P.label) $(P.name) $(a step.workspace)", ["P.label", "P.name", "a step.workspace"]),
    ],
)
def test_tokens_of_a_text(value, expected):
    assert names(value) == expected


def test_step_names_with_parentheses_are_found_whole():
    value = "$(run_$(SIZE).workspace) $(a(b).workspace) $(SIZE)"
    assert names(value, ("run_$(SIZE)", "a(b)")) == ["run_$(SIZE).workspace", "a(b).workspace", "SIZE"]


@pytest.mark.parametrize(
    ("value", "brackets"),
    [
        ("$(LAUNCHER)[4p] x", "[4p]"),
        ("$(LAUNCHER)[2n,4p] x", "[2n,4p]"),
        ("$(LAUNCHER)[2, 4] x", "[2, 4]"),
        ("$(LAUNCHER)[a] x", ""),
        ("$(LAUNCHER) [4p]", ""),
        ("$(OTHER)[4p]", ""),
    ],
)
def test_brackets_belong_to_the_launcher(value, brackets):
    (use,) = [part for part in Scanner().scan(Text(value)) if isinstance(part, Use)]
    assert use.brackets == brackets


@given(st.text(alphabet="$()\\ A[4p],\nb."))
def test_parts_are_the_text_again(value):
    parts = Scanner(("a(b)",)).scan(Text(value))
    assert "".join(part if isinstance(part, str) else part.raw for part in parts) == value
    offset = 0
    for part in parts:
        if isinstance(part, Use):
            assert part.offset == offset
        offset += len(part if isinstance(part, str) else part.raw)


@pytest.mark.parametrize(
    ("label", "expected"),
    [("A.1", "A.1"), ("a b", "a_b"), ("a/b", "ab"), ("$(X)", "(X)"), ("é\t!", ""), ("-_.()", "-_.()")],
)
def test_directory_names_keep_only_safe_characters(label, expected):
    assert safe_name(label) == expected


def test_both_rooms_reserve_the_same_names():
    assert RESERVED == RESERVED_NAMES
