"""Samples that a scheduler starts (`mode: step`): the words that do it are a process like any other, and end like it.

What differs is the meaning of their end. They end with the script's code, with 128 + n for a signal, or for a reason
that is the scheduler's: then the sample is not at fault, and goes back.
"""

from __future__ import annotations

import asyncio
import os
import signal

from mrun.engine.errors import HandBackError, MrunError
from mrun.engine.work.outcomes import Exit
from mrun.engine.work.processes.cold import ColdProcess, Spawner
from mrun.engine.work.processes.process import Script
from mrun.launchers.base import Launcher
from mrun.launchers.schedulers import EndKind, Output

#: Between two signals that ask a launcher to end.
_BETWEEN_SIGNALS_S = 0.3
#: Schedulers complain at the end of what a script wrote to stderr.
_TAIL_BYTES = 65_536


class LaunchedProcess(ColdProcess):
    """A launcher that runs a script, and knows what its end means."""

    def __init__(self, pid: int, began: float, spawner: Spawner, script: Script, *, launcher: Launcher) -> None:
        super().__init__(pid, began, spawner, script)
        self._launcher = launcher
        self._err_path = str(script.err)
        # What was there before is of other executions.
        self._first_byte = _size(self._err_path)

    def signal(self, number: int) -> None:
        """Signal the launcher, and not its group: srun's second process ends the step when the first was killed."""
        numbers = self._launcher.stop_signals if number == signal.SIGTERM else (number,)
        self.signal_leader(numbers[0])
        loop = asyncio.get_running_loop()
        for position, later in enumerate(numbers[1:], start=1):
            loop.call_later(position * _BETWEEN_SIGNALS_S, self.signal_leader, later)

    def _finish(self, end: Exit | MrunError) -> None:
        if isinstance(end, Exit):
            meant = self._launcher.end_of(Output(end.code, err=self._complaints()))
            if meant.sentence:
                end = HandBackError(meant.sentence, has_begun=meant.kind is not EndKind.REFUSED)
            elif meant.kind is EndKind.SIGNALLED:
                end = Exit(-meant.signal, end.elapsed_ms)
        super()._finish(end)

    def _complaints(self) -> str:
        try:
            with open(self._err_path, "rb") as file:
                file.seek(max(self._first_byte, _size(self._err_path) - _TAIL_BYTES))
                return file.read(_TAIL_BYTES).decode(errors="replace")
        except OSError:
            return ""


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
