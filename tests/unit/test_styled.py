"""Text with styles, and tables of it."""

from __future__ import annotations

import io

import pytest

from mrun.cli.styled import Styled, table_lines, wants_colour


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_parts_have_their_styles_where_colours_are_wanted() -> None:
    text = Styled("state ", ("failed", "bold red"))
    text.append(" at last", "dim")
    assert str(text) == "state failed at last"
    assert text.shown(is_coloured=False) == "state failed at last"
    assert text.shown(is_coloured=True) == "state \x1b[31m\x1b[1mfailed\x1b[0m\x1b[2m at last\x1b[0m"


def test_a_sign_stands_for_characters_that_a_terminal_would_obey() -> None:
    assert Styled("a\x1b[2Jb\nc").shown(is_coloured=True) == "a�[2Jb\nc"


def test_numbers_are_right_aligned_and_wide_characters_count_twice() -> None:
    rows = [("sim", 7, 0.25, None), ("日本", 12_000, 12.5, "x\ny")]
    assert list(table_lines(("step", "samples", "mean s", "note"), rows, is_coloured=False)) == [
        "step  samples  mean s  note",
        "sim         7   0.250",
        "日本    12000    12.5  x�y",
    ]


def test_table_without_rows_is_its_headings() -> None:
    assert list(table_lines(("a", "b"), [], is_coloured=False)) == ["a  b"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_are_for_terminals_that_want_them(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wants_colour(Terminal()) is expected
    assert not wants_colour(io.StringIO())
