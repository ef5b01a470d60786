"""Text with styles, and tables of it. A style is words such as `bold red`; only a terminal is shown colours."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TextIO

import click

#: What a line of somebody's file, or a name that a server tells, must not do to a terminal. Messages have line breaks.
CONTROLS = dict.fromkeys((*range(9), *range(10, 32), *range(127, 160)), "�")
_CONTROLS_IN_LINES = {one: sign for one, sign in CONTROLS.items() if one != ord("\n")}
_WEIGHTS = ("bold", "dim")


class Styled:
    """A text, of which each part is plain or has a style: `Styled("state ", ("failed", "bold red"))`."""

    def __init__(self, *parts: str | tuple[str, str]) -> None:
        self._parts = [(part, "") if isinstance(part, str) else part for part in parts]

    def __str__(self) -> str:
        """The text without its styles."""
        return "".join(text for text, _ in self._parts)

    def append(self, text: str, style: str = "") -> None:
        """Add a part at the end."""
        self._parts.append((text, style))

    def shown(self, *, is_coloured: bool, controls: dict[int, str] = _CONTROLS_IN_LINES) -> str:
        """The text for a stream. A sign stands for each character that is not to be seen."""
        parts = [(text.translate(controls), style) for text, style in self._parts]
        return "".join(_with_style(text, style) if style and is_coloured else text for text, style in parts)


def wants_colour(stream: TextIO) -> bool:
    """Whether it is a terminal that shows colours, and whose user has not forbidden them (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in ("dumb", "unknown")


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[object]], *, is_coloured: bool) -> Iterator[str]:
    """Rows under headings; columns of numbers are right-aligned. Nothing is cut: a long cell makes a long line."""
    cells = [[_cell(value) for value in row] for row in rows]
    headings = [Styled((column, "bold")) for column in columns]
    widths = [max(map(_width, column)) for column in zip(headings, *cells, strict=True)]
    numeric = [bool(rows) and all(_is_number(row[index]) for row in rows) for index in range(len(columns))]
    for row in (headings, *cells):
        line = ""
        for cell, width, is_right in zip(row, widths, numeric, strict=True):
            blanks = " " * (width - _width(cell))
            text = cell.shown(is_coloured=is_coloured, controls=CONTROLS)
            line += f"{blanks}{text}  " if is_right else f"{text}{blanks}  "
        yield line.rstrip()


def _with_style(text: str, style: str) -> str:
    words = style.split()
    colour = next((word for word in words if word not in _WEIGHTS), None)
    return click.style(text, fg=colour, **{word: True for word in words if word in _WEIGHTS})


def _cell(value: object) -> Styled:
    if isinstance(value, Styled):
        return value
    if isinstance(value, float):
        return Styled(f"{value:.3f}" if value < 10 else f"{value:.1f}")
    return Styled("" if value is None else str(value))


def _is_number(value: object) -> bool:
    return str(value).isdigit() if isinstance(value, Styled) else isinstance(value, (int, float, type(None)))


def _width(cell: Styled) -> int:
    """The columns of a terminal that it takes."""
    text = str(cell)
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(one) in "WF" for one in text)
    return len(text) + wide - sum(unicodedata.combining(one) > 0 for one in text)
