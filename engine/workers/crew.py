"""The workers of one `mrun run`: started for its study and those that its steps queue, asked to stop, and judged."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Collection
from pathlib import Path

import msgspec

from mrun.engine.errors import BrokerError, ExitCode, LauncherError, MrunError
from mrun.engine.settings import Settings
from mrun.engine.store.connect import Broker
from mrun.engine.workers.environment import PARENT_VARIABLE, worker_environment
from mrun.engine.workers.forked import ForkedWorker, WorkerStart, spawn_worker
from mrun.engine.workers.request import WorkerRequest, worker_words

_TAIL_LINES = 5


class Crew:
    """One worker for the study's queues, and another one when its steps queue a study that uses other queues.

    Args:
        first: was forked for the first queues.
        request: what each of them is asked to be, but for its queues and its study.
    """

    def __init__(self, first: ForkedWorker, request: WorkerRequest, settings: Settings, broker: Broker) -> None:
        self._first, self._request, self._settings, self._broker = first, request, settings, broker
        self._workers: list[ForkedWorker | subprocess.Popen[bytes]] = []
        self._served_queues: set[str] = set()
        self._log_path = Path()

    def serve(self, study: str, queues: Collection[str], log_path: Path) -> None:
        """See to it that there is a worker for each of these queues. What workers print is added to the log."""
        queues = sorted(set(queues) - self._served_queues)
        if not queues:
            return
        self._served_queues |= set(queues)
        self._log_path = log_path
        request = msgspec.structs.replace(self._request, queues=tuple(queues), study=study)
        parent = {PARENT_VARIABLE: str(os.getpid())}
        environment = worker_environment(os.environ, self._settings, self._broker) | parent
        start = WorkerStart(worker_words(request, self._settings), environment, str(log_path))
        if self._workers:
            self._workers.append(spawn_worker(start))
        else:
            self._first.begin(start)
            self._workers.append(self._first)

    @property
    def is_alive(self) -> bool:
        """Whether one of them lives."""
        return any(worker.poll() is None for worker in self._workers)

    def ask_to_stop(self) -> None:
        """They finish what they run; asked again, they end it."""
        for worker in self._workers:
            worker.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Ask them to stop, and wait: it takes as long as what they still run."""
        self.ask_to_stop()
        for worker in self._workers:
            worker.wait()

    def why_ended(self) -> str:
        """Why they ended before the study did, as the end of a sentence.

        Raises:
            MrunError: one of them failed.
        """
        codes = [worker.wait() for worker in self._workers]
        if killed_by := next(filter(None, map(_killer, codes)), ""):
            return f"was killed by {killed_by}"
        code = max(codes)
        if code == ExitCode.DONE:
            # By `mrun stop`, or by a step that ended with 105 (STOP_WORKERS).
            return "was asked to stop"
        kinds: dict[int, type[MrunError]] = {ExitCode.BROKER: BrokerError, ExitCode.SCHEDULER: LauncherError}
        raise kinds.get(code, MrunError)(
            f"The worker ended with code {code} before the study did: {self._log_tail()}",
            hint=f"The study stays queued, and `mrun work` goes on with it. The worker's log is '{self._log_path}'.",
        )

    def _log_tail(self) -> str:
        """The last lines that a worker printed, but for its log events."""
        try:
            lines = self._log_path.read_text(errors="replace").splitlines()
        except OSError:
            return "its log can't be read"
        return "\n".join([line for line in lines if not line.startswith("{")][-_TAIL_LINES:] or lines[-1:])


def _killer(code: int) -> str:
    """The signal that killed a worker: its guard, or its engine, of which the guard tells 128 + n; empty: none."""
    number = -code if code < 0 else code - 128
    return signal.Signals(number).name if number in set(signal.Signals) else ""
