"""Every error that mrun raises: one tree.

A message is one sentence for the user with the offending value quoted; `hint` is the fix. The class tells the exit
code of a command that ends with it, and whether the same call may succeed later.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec


class ExitCode(enum.IntEnum):
    """What a command's exit code says."""

    DONE = 0
    BUG = 1
    USAGE = 2
    SPEC = 3
    NOT_FOUND = 4
    BROKER = 5
    SCHEDULER = 6
    SAMPLES_FAILED = 7
    INTERRUPTED = 130
    TERMINATED = 143


class MrunError(Exception):
    """The root: raised itself only for what should not happen, which is a bug in mrun."""

    exit_code = ExitCode.BUG
    is_retryable = False

    def __init__(self, message: str, *, hint: str = "", where: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.where = where


class UsageError(MrunError):
    """The words of a command or of a Python call do not fit together."""

    exit_code = ExitCode.USAGE


class SettingsError(MrunError):
    """A setting, its file or its variable is wrong."""

    exit_code = ExitCode.SPEC


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with a spec, or with a file that it names.

    `line` and `column` count from 1; 0 means that there is no place to point at.
    """

    message: str
    path: str = ""
    line: int = 0
    column: int = 0
    hint: str = ""

    @property
    def where(self) -> str:
        """`file:line:column`, as far as it is known."""
        return ":".join(part for part in (self.path, str(self.line or ""), str(self.column or "")) if part)


class SpecError(MrunError):
    """A spec can't be run as it stands. Holds every problem that was found, in file order."""

    exit_code = ExitCode.SPEC

    def __init__(self, problems: Sequence[Problem], partial: object = None) -> None:
        first = problems[0]
        super().__init__(first.message, hint=first.hint, where=first.where)
        self.problems = tuple(problems)
        #: What could be read all the same, by which a later room may find more.
        self.partial = partial


class WorkspaceError(MrunError):
    """A directory or a file of a study can't be made, read or written."""

    exit_code = ExitCode.SPEC


class NotFoundError(MrunError):
    """A study, a worker or a queue of that name is not known to the server."""

    exit_code = ExitCode.NOT_FOUND


class BrokerError(MrunError):
    """The server can't be used: it refuses, it is too old, it is set up in a way that would lose work."""

    exit_code = ExitCode.BROKER


class BrokerAwayError(BrokerError):
    """The server does not answer now; it may later."""

    is_retryable = True


class SealError(BrokerError):
    """A sealed text was not sealed by this user's key for this study, or was changed."""


class LauncherError(MrunError):
    """A scheduler or a launcher refused, or is missing."""

    exit_code = ExitCode.SCHEDULER


class LauncherAwayError(LauncherError):
    """The scheduler does not answer now, or takes no more jobs for now; it may later."""

    is_retryable = True


class HandBackError(MrunError):
    """A sample did not start, or came to no end of its own, through no fault of its script: it goes back as it was."""

    is_retryable = True

    def __init__(
        self, message: str, *, hint: str = "", has_begun: bool = False, is_counted: bool = True, is_left: bool = False
    ) -> None:
        super().__init__(message, hint=hint)
        #: The script may have done something.
        self.has_begun = has_begun
        #: It speaks against this worker, or this study.
        self.is_counted = is_counted and not is_left
        #: Nothing went wrong: it goes on without this worker, or is to be tried again later.
        self.is_left = is_left


def our_error(error: BaseException) -> MrunError | None:
    """The error of ours that it is, or that is somewhere in the groups that task groups make."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for part in error.exceptions if (found := our_error(part))), None)
    return error if isinstance(error, MrunError) else None
