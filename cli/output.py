"""How a command speaks: text for people, exactly one JSON value for programs, or ids only.

stdout is data; stderr is people. Colour only on a terminal, and never with NO_COLOR.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mrun.cli.styled import CONTROLS, Styled, table_lines, wants_colour
from mrun.engine.errors import MrunError, Problem, SpecError

_SHOWN_LINE_MOST = 160


class Output:
    """One command's voice."""

    def __init__(self, *, is_json: bool, is_quiet: bool) -> None:
        self.is_json = is_json
        self.is_quiet = is_quiet

    def tell(self, text: str | Styled) -> None:
        """A line on stderr, whatever was asked for."""
        line = Styled(text) if isinstance(text, str) else text
        sys.stderr.write(line.shown(is_coloured=wants_colour(sys.stderr)) + "\n")
        sys.stderr.flush()

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

    def say(self, text: str | Styled = "") -> None:
        """A line of the answer."""
        if not self.is_json and not self.is_quiet:
            self._write(text if isinstance(text, str) else text.shown(is_coloured=wants_colour(sys.stdout)))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Rows under headings; numbers right-aligned. Nothing is cut: a long cell makes a long line."""
        if not self.is_json and not self.is_quiet:
            for line in table_lines(columns, list(rows), is_coloured=wants_colour(sys.stdout)):
                self._write(line)

    def note(self, text: str) -> None:
        """A line for people, that is no part of the answer."""
        if not self.is_json and not self.is_quiet:
            self.tell(text)

    def warn(self, texts: Iterable[str]) -> None:
        """Warnings, a line each."""
        for text in texts:
            self.tell(Styled(("warning: ", "yellow"), text))

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
            self.tell(f"{len(problems)} problems; nothing was queued.")

    def bug(self, error: Exception) -> None:
        """Something that should not happen."""
        if self.is_json:
            self.data({"error": {"message": f"{type(error).__name__}: {error}", "exit_code": 1}})
        traceback.print_exception(error, file=sys.stderr)
        self.tell("This is a bug in mrun. Please report it, with the lines above and what you typed.")

    def _show_problem(self, problem: Problem) -> None:
        self.tell(Styled(("error: ", "bold red"), problem.message))
        if problem.where:
            self.tell(f"  at {problem.where}")
        line = _line_of(problem)
        if line:
            self.tell(Styled((f"     {line}", "dim")))
        if problem.hint:
            self.tell(f"  fix: {problem.hint}")

    def _write(self, text: str) -> None:
        # Names that are not valid UTF-8 (surrogates) are shown, not fatal.
        sys.stdout.write(text.encode("utf-8", "replace").decode() + "\n")
        sys.stdout.flush()


def _line_of(problem: Problem) -> str:
    """The offending line, if its file can be read."""
    if not problem.line:
        return ""
    try:
        with Path(problem.path).open(errors="replace") as file:
            for number, line in enumerate(file, 1):
                if number == problem.line:
                    return line.strip()[:_SHOWN_LINE_MOST].translate(CONTROLS)
    except OSError:
        return ""
    return ""
