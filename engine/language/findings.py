"""What the plan room finds wrong with a spec, or worth saying about it, gathered until all of it is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mrun.engine.errors import Problem, SpecError
from mrun.engine.spec.model import Text


class Findings:
    """Problems and warnings of one spec file, each said once.

    Args:
        known: what another room found in the file: whatever is found at the same place follows from that.
    """

    def __init__(self, path: str, known: Sequence[Problem] = ()) -> None:
        self._path = path
        self._problems = dict.fromkeys(known)
        self._known_places = {(one.path, one.line, one.column) for one in known if one.line}
        self._warnings: dict[str, None] = {}

    def error(self, text: Text, message: str, *, offset: int = 0, hint: str = "") -> None:
        """Note a problem at the character `offset` of `text`."""
        line, column = _locate(text, offset)
        if (self._path, line, column) not in self._known_places:
            self._problems[Problem(message, self._path, line, column, hint)] = None

    def warn(self, text: Text, message: str, *, offset: int = 0) -> None:
        """Note what stops nothing. The warning begins with its place in the file, where it has one."""
        line, column = _locate(text, offset)
        where = f"{self._path}:{line}:{column}: " if line else ""
        self._warnings[where + message] = None

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def add(self, problems: Iterable[Problem]) -> None:
        """Note what is wrong with another file."""
        self._problems.update(dict.fromkeys(problems))

    def raise_problems(self) -> None:
        """Raises:
        SpecError: if there is any problem; it holds all of them, in file order.
        """
        if self._problems:
            raise SpecError(self._in_order(self._problems))

    def _in_order(self, problems: Iterable[Problem]) -> list[Problem]:
        """In file order; what is wrong with other files comes last."""
        return sorted(problems, key=lambda one: (one.path != self._path, one.line, one.column))


def _locate(text: Text, offset: int) -> tuple[int, int]:
    """A text that did not come from the file (a default, an option of the command line) has no place in it."""
    return text.locate(offset) if text.line else (0, 0)
