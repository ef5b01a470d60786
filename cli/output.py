"""How a command speaks: text for people, exactly one JSON value for programs, or ids only.

stdout is data; stderr is people. Colour only on a terminal, and never with NO_COLOR (rich sees to both).
"""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from mrun.engine.errors import MrunError, Problem, SpecError

_SHOWN_LINE_MOST = 160
_TABLE_WIDTH = 10_000
#: What a line of somebody's file, or a name that a server tells, must not do to a terminal. Messages have line breaks.
_CONTROLS = dict.fromkeys((*range(9), *range(10, 32), *range(127, 160)), "�")
_CONTROLS_IN_LINES = {one: sign for one, sign in _CONTROLS.items() if one != ord("\n")}


class Output:
    """One command's voice."""

    def __init__(self, *, is_json: bool, is_quiet: bool) -> None:
        self.is_json = is_json
        self.is_quiet = is_quiet

    @property
    def people(self) -> Console:
        """stderr."""
        return Console(stderr=True, highlight=False, soft_wrap=True)

    def data(self, value: Any) -> None:
        """The command's one JSON value; nothing otherwise."""
        if self.is_json:
            sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
            sys.stdout.flush()

    def ids(self, ids: Iterable[str]) -> None:
        """Ids only, a line each, if that was asked for."""
        if self.is_quiet and not self.is_json:
            for one in ids:
                self._write(one)

    def say(self, text: str | Text = "") -> None:
        """A line of the answer."""
        if not self.is_json and not self.is_quiet:
            self._write(text if isinstance(text, str) else self._rendered(text))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Rows under headings; numbers right-aligned. Nothing is cut: a long cell makes a long line."""
        if self.is_json or self.is_quiet:
            return
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        listed = [list(row) for row in rows]
        for index, column in enumerate(columns):
            is_number = bool(listed) and all(_is_number(row[index]) for row in listed)
            table.add_column(column, justify="right" if is_number else "left", no_wrap=True)
        for row in listed:
            table.add_row(*(cell if isinstance(cell, Text) else Text(_cell(cell).translate(_CONTROLS)) for cell in row))
        self._write(self._rendered(table))

    @staticmethod
    def _rendered(what: RenderableType) -> str:
        """As text, with colours if stdout is a terminal. Rich does not write it: it would end a broken pipe with 1."""
        # As wide as its cells: a terminal wraps, a pipe gets whole lines.
        console = Console(
            file=io.StringIO(), force_terminal=sys.stdout.isatty(), highlight=False, width=_TABLE_WIDTH, soft_wrap=True
        )
        console.print(_shown_like(what) if isinstance(what, Text) else what)
        assert isinstance(console.file, io.StringIO)
        return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())

    def note(self, text: str) -> None:
        """A line for people, that is no part of the answer."""
        if not self.is_json and not self.is_quiet:
            self.people.print(_shown(text))

    def warn(self, texts: Iterable[str]) -> None:
        """Warnings, a line each."""
        for text in texts:
            self.people.print(Text("warning: ", style="yellow") + _shown(text))

    def error(self, error: MrunError) -> None:
        """What, where, how to fix; for every problem there is."""
        problems = error.problems if isinstance(error, SpecError) else (None,)
        if self.is_json:
            shown = [msgspec.structs.asdict(problem) for problem in problems if problem is not None]
            told = {
                "message": error.message,
                "hint": error.hint,
                "where": error.where,
                "exit_code": int(error.exit_code),
            }
            self.data({"error": told | ({"problems": shown} if shown else {})})
            return
        for problem in problems:
            self._show_problem(problem or Problem(error.message, error.where, hint=error.hint))
        if len(problems) > 1:
            self.people.print(Text(f"{len(problems)} problems; nothing was queued."))

    def bug(self, error: Exception) -> None:
        """Something that should not happen."""
        if self.is_json:
            self.data({"error": {"message": f"{type(error).__name__}: {error}", "exit_code": 1}})
        traceback.print_exception(error, file=sys.stderr)
        self.people.print(Text("This is a bug in mrun. Please report it, with the lines above and what you typed."))

    def _show_problem(self, problem: Problem) -> None:
        console = self.people
        console.print(Text("error: ", style="bold red") + _shown(problem.message))
        if problem.where:
            console.print(_shown(f"  at {problem.where}"))
        line = _line_of(problem)
        if line:
            console.print(Text(f"     {line}", style="dim"))
        if problem.hint:
            console.print(_shown(f"  fix: {problem.hint}"))

    def _write(self, text: str) -> None:
        # Names that are not valid UTF-8 (surrogates) are shown, not fatal.
        sys.stdout.write(text.encode("utf-8", "replace").decode() + "\n")
        sys.stdout.flush()


def _shown(text: str) -> Text:
    return Text(text.translate(_CONTROLS_IN_LINES))


def _shown_like(text: Text) -> Text:
    """The same with its styles: a sign stands for each character that is not to be seen."""
    return Text(text.plain.translate(_CONTROLS_IN_LINES), style=text.style, spans=text.spans)


def our_error(error: BaseException) -> MrunError | None:
    """The error of ours that it is, or that is somewhere in the groups that task groups make."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for part in error.exceptions if (found := our_error(part))), None)
    return error if isinstance(error, MrunError) else None


def _is_number(cell: object) -> bool:
    return str(cell).isdigit() if isinstance(cell, Text) else isinstance(cell, (int, float, type(None)))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if value < 10 else f"{value:.1f}"
    return "" if value is None else str(value)


def _line_of(problem: Problem) -> str:
    """The offending line, if its file can be read."""
    if not problem.line:
        return ""
    try:
        with Path(problem.path).open(errors="replace") as file:
            for number, line in enumerate(file, 1):
                if number == problem.line:
                    return line.strip()[:_SHOWN_LINE_MOST].translate(_CONTROLS)
    except OSError:
        return ""
    return ""
