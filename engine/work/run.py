"""The life of one sample, and of a claim whose samples run one after another.

waiting    its files are prepared; nothing says that an execution began
running    its process was started, or stands behind another that runs
keeping    its process has ended, and what it left is being kept
left       it goes back: it was not started, or goes on without this worker
ended      it has an outcome
"""

from __future__ import annotations

import enum
import signal
import time
from collections.abc import Callable

from mrun.engine.errors import HandBackError
from mrun.engine.records import Claim
from mrun.engine.work.affinity import NO_GRANT
from mrun.engine.work.claim import ClaimAccount
from mrun.engine.work.files.way import SampleFiles
from mrun.engine.work.outcomes import Exit
from mrun.engine.work.processes.process import Order, Process, Script


class Ending(enum.Enum):
    """Why a worker ends a sample that runs; the value is the seconds between TERM and KILL."""

    #: Another worker has it now, or will: not a moment longer.
    LOST = 0.0
    #: This worker is asked to end now.
    DRAINED = 2.0
    #: Its study was cancelled.
    CANCELLED = 10.0


class RunState(enum.Enum):
    """Where a sample is in its life; see above."""

    WAITING = "waiting"
    RUNNING = "running"
    KEEPING = "keeping"
    LEFT = "left"
    ENDED = "ended"


class SampleRun:
    """One execution of one sample.

    Args:
        order: what a warm shell is to read; None: it is started cold.
    """

    def __init__(self, files: SampleFiles, script: Script, order: Order | None) -> None:
        self.files, self.script, self.order = files, script, order
        self.state = RunState.WAITING
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """What runs it. It was started."""
        assert self._process is not None
        return self._process

    def start(self, begin: Callable[[], Process]) -> None:
        """Make its files ready, and begin it. If that fails, nothing says that it began."""
        try:
            self.files.enter()
            self._process = begin()
        except BaseException:
            self.state = RunState.LEFT
            self.files.never_ran()
            self.files.release()
            raise
        self.state = RunState.RUNNING

    def end(self, why: Ending, *, is_for_good: bool) -> None:
        """Ask its process to end, or to go on without this worker if it can and is not to end for good."""
        if self.process.outlives_worker and not is_for_good:
            self.process.leave()
        else:
            self.process.signal(signal.SIGTERM if why.value else signal.SIGKILL)

    async def keep(self, end: Exit, *, is_finished: bool, is_lost: bool) -> None:
        """Keep what it left. It takes its time if that is much; whoever wants it ended meanwhile is too late.

        Args:
            is_finished: it ended by itself with code 0, in time.
            is_lost: the sample belongs to another worker by now.

        Raises:
            HandBackError: it can't be kept: the workspace is full or gone.
        """
        self.state = RunState.KEEPING
        is_shared = self.process.has_left_others
        try:
            await self.files.keep(end.code, is_finished=is_finished, is_lost=is_lost, is_shared=is_shared)
        except OSError as error:
            name = error.filename or self.files.directory
            raise HandBackError(f"'{name}' can't be written: {error.strerror}.") from error

    def withdraw(self) -> bool:
        """It is not to start. False: it runs, or will at any moment."""
        if self.state is RunState.RUNNING and not self.process.take_back():
            return False
        if self.state is RunState.WAITING:
            self.files.drop()
        else:
            self.files.never_ran()
            self.files.release()
        self.state = RunState.LEFT
        return True

    def close(self, state: RunState) -> None:
        """Forget it. If it still runs it is killed, unless it outlives its worker."""
        self.process.close()
        if not self.process.has_begun:
            self.files.never_ran()
        self.files.release()
        self.state = state


class ClaimRun(ClaimAccount):
    """A claim that one slot of this worker runs."""

    def __init__(self, claim: Claim) -> None:
        super().__init__(claim)
        #: The CPUs and GPUs that its samples may use.
        self.grant = NO_GRANT
        #: The sample at `at`, when it was started.
        self.current: SampleRun | None = None
        #: The sample after it; without a current one, that at `at`. It waits, or runs behind the current one.
        self.next: SampleRun | None = None
        #: Why what runs is ended, and when it is killed, on the monotonic clock.
        self.ending: Ending | None = None
        self.kill_at = 0.0
        self.is_lost = False
        #: It was lost because the server does not know its study any more: nobody else has it.
        self.is_study_gone = False
        #: Its slot is through with it.
        self.is_done = False

    @property
    def is_keeping(self) -> bool:
        """Its sample has ended, and what it left is being kept."""
        return self.current is not None and self.current.state is RunState.KEEPING

    @property
    def left_ms(self) -> float:
        """How long it is expected to take still; 0: any moment, or nobody knows."""
        elapsed_s = self.current.process.elapsed_s if self.current else 0.0
        return max(0.0, (self.limit - self.at) * self.claim.pace_ms - 1000 * elapsed_s)

    def take_next(self) -> SampleRun | None:
        """The sample that was prepared for `at`, or even started."""
        prepared, self.next = self.next, None
        return prepared

    def stop_after_current(self) -> None:
        """Start nothing more: what is not started goes back."""
        if self.next is not None and self.next.withdraw():
            self.next = None
        self.limit = min(self.limit, self.at + (self.current is not None) + (self.next is not None))

    def drain(self) -> None:
        """Start nothing more. What outlives its worker is left: who claims the sample next awaits it."""
        self.stop_after_current()
        if self.current is not None and self.current.process.outlives_worker:
            self.end_now(Ending.DRAINED)

    def lose(self, *, is_study_gone: bool = False) -> None:
        """The server says that it is not this worker's any more."""
        self.is_study_gone |= is_study_gone
        self.end_now(Ending.LOST)

    def cancel(self) -> None:
        """Its study was cancelled."""
        self.end_now(Ending.CANCELLED)

    def end_now(self, why: Ending) -> None:
        """Start nothing more and end what runs. What ends sooner beats what was asked before."""
        self.stop_after_current()
        self.is_lost |= why is Ending.LOST
        if self.ending is not None and self.ending.value <= why.value:
            return
        self.ending = why
        self.kill_at = time.monotonic() + why.value
        for run in (self.current, self.next):
            if run is not None:
                run.end(why, is_for_good=why is Ending.CANCELLED or self.is_study_gone)

    def close(self) -> None:
        """Its slot is through with it: what was started behind the last sample is killed."""
        self.stop_after_current()
        if self.next is not None:
            self.next.close(RunState.LEFT)
            self.next = None
            self.stop_after_current()
        self.is_done = True
