"""Collects what is wrong with a spec, so that a reader sees all of it at once and not the first mistake only."""

from __future__ import annotations

from typing import NoReturn, Protocol

from mrun.engine.errors import Problem, SpecError

#: Longer texts are cut when they are quoted in a message (characters).
QUOTED_LENGTH = 60


class Located(Protocol):
    """Anything that has a place in the file."""

    @property
    def line(self) -> int: ...

    @property
    def column(self) -> int: ...


class Problems:
    """The errors and warnings of one file."""

    def __init__(self, path: str, *, is_lenient: bool = False) -> None:
        self.path = path
        self.is_lenient = is_lenient
        # Keys of a dict: a mapping that is merged into several others would be reported once for each.
        self._errors: dict[Problem, None] = {}
        self._warnings: dict[Problem, None] = {}

    def add(self, message: str, at: Located | None, hint: str = "") -> None:
        """Note an error."""
        self._errors[self._problem(message, at, hint)] = None

    def warn(self, message: str, at: Located | None, hint: str = "") -> None:
        """Note something that the user should see, and that does not stop the study."""
        self._warnings[self._problem(message, at, hint)] = None

    def add_unknown(self, message: str, at: Located, hint: str = "") -> None:
        """Note an unknown key: an error, and a warning where the user asked for leniency."""
        note = self.warn if self.is_lenient else self.add
        note(message, at, hint)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The warnings, in file order."""
        return tuple(sorted(self._warnings, key=_file_order))

    def raise_if_any(self, partial: object = None) -> None:
        """Raise all errors as one SpecError, in file order, with what could be read all the same."""
        if self._errors:
            raise SpecError(sorted(self._errors, key=_file_order), partial)

    def fail(self, message: str, at: Located | None = None, hint: str = "") -> NoReturn:
        """Raise at once, with what was noted before: there is nothing more to look at."""
        self.add(message, at, hint)
        raise SpecError(sorted(self._errors, key=_file_order))

    def _problem(self, message: str, at: Located | None, hint: str) -> Problem:
        line, column = (at.line, at.column) if at is not None else (0, 0)
        return Problem(message, path=self.path, line=line, column=column, hint=hint)


def quoted(value: str) -> str:
    """The value in quotes, cut if it is long, on one line."""
    return repr(value if len(value) <= QUOTED_LENGTH else value[: QUOTED_LENGTH - 1] + "…")


def capital(sentence: str) -> str:
    """The sentence with a capital at its start, the rest as it is."""
    return sentence[:1].upper() + sentence[1:]


def _file_order(problem: Problem) -> tuple[int, int]:
    return problem.line, problem.column
