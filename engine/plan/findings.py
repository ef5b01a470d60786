"""What the plan room finds wrong with a spec, or worth saying about it, gathered until all of it is known."""

from __future__ import annotations

from mrun.engine.errors import Problem, SpecError
from mrun.engine.spec.model import Text


class Findings:
    """Problems and warnings of one spec file, each said once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._problems: dict[Problem, None] = {}
        self._warnings: dict[str, None] = {}

    def error(self, text: Text, message: str, *, offset: int = 0, hint: str = "") -> None:
        """Note a problem at the character `offset` of `text`."""
        line, column = _locate(text, offset)
        self._problems[Problem(message, self._path, line, column, hint)] = None

    def warn(self, text: Text, message: str, *, offset: int = 0) -> None:
        """Note what stops nothing. The warning begins with its place in the file, where it has one."""
        line, column = _locate(text, offset)
        where = f"{self._path}:{line}:{column}: " if line else ""
        self._warnings[where + message] = None

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def raise_problems(self) -> None:
        """Raises:
        SpecError: if there is any problem; it holds all of them, in file order.
        """
        if self._problems:
            raise SpecError(sorted(self._problems, key=lambda problem: (problem.line, problem.column)))


def _locate(text: Text, offset: int) -> tuple[int, int]:
    """A text that did not come from the file (a default, an option of the command line) has no place in it."""
    return text.locate(offset) if text.line else (0, 0)
