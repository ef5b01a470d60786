"""Samples that a scheduler starts (`mode: step`): the words that do it are a process like any other, and end like it.

What differs is the meaning of their end. They end with the script's code, with 128 + n for a signal, or for a reason
that is the scheduler's: then the sample is not at fault, and goes back.
"""

from __future__ import annotations

import asyncio
import os
import signal

from mrun.engine.errors import MrunError
from mrun.engine.work.outcomes import Exit
from mrun.engine.work.processes import StepProcess
from mrun.launchers.base import Launcher
from mrun.launchers.schedulers import End, EndKind, Output

#: Between two signals that ask a launcher to end.
_BETWEEN_SIGNALS_S = 0.3
#: Schedulers complain at the end of what a script wrote to stderr.
_TAIL_BYTES = 65_536

_WHY = {
    EndKind.NODE_FAILED: "its node failed",
    EndKind.PREEMPTED: "its place was taken by a job of higher rank",
    EndKind.REFUSED: "the scheduler did not start it",
    EndKind.TIMED_OUT: "the allocation has ended",
    EndKind.UNKNOWN: "nobody knows how it ended",
}


class LaunchError(MrunError):
    """A sample was not started by its launcher, or was ended by what is no fault of its own."""

    is_retryable = True

    def __init__(self, message: str, *, has_begun: bool, is_counted: bool = True) -> None:
        super().__init__(message)
        #: The script may have done something.
        self.has_begun = has_begun
        #: It speaks against this worker, or this study.
        self.is_counted = is_counted


class JobLeftError(MrunError):
    """A job goes on without this worker, which has lost its sample, or hands it back for others to await."""

    def __init__(self, *, has_begun: bool) -> None:
        super().__init__("The job goes on without this worker.")
        self.has_begun = has_begun


class LaunchedProcess:
    """A running sample, and the launcher that knows what its end means. `err_path` is where its stderr goes."""

    def __init__(self, process: StepProcess, launcher: Launcher, err_path: str) -> None:
        self._process, self._launcher = process, launcher
        self._err_path = err_path
        # What was there before is of other executions.
        self._first_byte = _size(err_path)

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was started: its time in the scheduler's queue is part of it."""
        return self._process.elapsed_s

    @property
    def has_left_others(self) -> bool:
        """Whether processes of the launcher's group live on after it."""
        return self._process.has_left_others

    async def wait_within(self, timeout_s: float) -> Exit | None:
        """Wait for its end, or so long; safe to cancel and to call again.

        Raises:
            LaunchError: it has ended, for a reason that is not its own.
        """
        end = await self._process.wait_within(timeout_s)
        if end is None:
            return None
        told = self._launcher.end_of(Output(end.code, err=self._complaints()))
        if told.kind in _WHY:
            raise LaunchError(told_of(told), has_begun=told.kind is not EndKind.REFUSED)
        code = -told.signal if told.kind is EndKind.SIGNALLED else end.code
        return Exit(code, end.elapsed_ms)

    def signal(self, number: int) -> None:
        """Signal the launcher, and not its group: srun's second process ends the step when the first was killed."""
        numbers = self._launcher.stop_signals if number == signal.SIGTERM else (number,)
        self._process.signal_leader(numbers[0])
        loop = asyncio.get_running_loop()
        for position, later in enumerate(numbers[1:], start=1):
            loop.call_later(position * _BETWEEN_SIGNALS_S, self._process.signal_leader, later)

    @property
    def has_rest(self) -> bool:
        """None: the launcher's second process ends what the first has started."""
        return False

    def end_rest(self) -> None:
        """Nothing: see `has_rest`."""

    def close(self) -> None:
        """Forget it. If it still runs its launcher is killed."""
        self._process.close()

    def _complaints(self) -> str:
        try:
            with open(self._err_path, "rb") as file:
                file.seek(max(self._first_byte, _size(self._err_path) - _TAIL_BYTES))
                return file.read(_TAIL_BYTES).decode(errors="replace")
        except OSError:
            return ""


def told_of(end: End) -> str:
    """The sentence for an end that is no script's own."""
    return f"{_WHY[end.kind].capitalize()}: {end.why}." if end.why else f"{_WHY[end.kind].capitalize()}."


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
