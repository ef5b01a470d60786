"""A sample that is a batch job (`mode: job`), as its slot sees it: like a process that was started.

What differs: it waits for its turn, it runs where its scheduler wants, and it does not end with its worker. Whoever
claims its sample finds its id in the sample's directory, and awaits it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping

import anyio

from mrun.engine.errors import MrunError
from mrun.engine.plan.model import JobTerms
from mrun.engine.work.files import Ready
from mrun.engine.work.job_files import JobFiles, LeftCode, code_path, job_name, wrapper_of
from mrun.engine.work.launched import JobLeftError, LaunchError, told_of
from mrun.engine.work.nudge import Nudge
from mrun.engine.work.outcomes import Exit
from mrun.launchers.schedulers import End, EndKind, Job, end_by_code

#: Codes of shells above it stand for signals: the script did not choose them.
_LAST_OWN_CODE = 128


class JobProcess:
    """One execution of a sample, from its turn to its end.

    Args:
        ready: the names of its files; nothing is made before it is submitted.
        variables: the environment of the job.
        title: what people call its scheduler.
        watch_wanted: wakes the watch that asks the scheduler.
    """

    def __init__(
        self, ready: Ready, files: JobFiles, variables: Mapping[str, str], title: str, watch_wanted: Nudge
    ) -> None:
        terms = ready.instance.text.terms
        self.ready, self.files = ready, files
        self.name = job_name(ready)
        self.terms = terms.job or JobTerms()
        #: Jobs of one step share its throttle.
        self.step = (ready.instance.claim.study, ready.instance.text.step.index)
        #: The scheduler's id; empty until it is known.
        self.job = ""
        #: A call that submits it is under way; one was, and nobody knows what came of it.
        self.is_in_flight, self.may_have_job = False, False
        #: It was seen to run.
        self.has_run = False
        self.is_cancel_asked = False
        #: On the monotonic clock; 0: never.
        self.cancelled_at = 0.0
        #: In a row, the scheduler did not know it.
        self.unknown_looks = 0
        self._variables, self._title, self._watch_wanted = variables, title, watch_wanted
        self._walltime_s = terms.walltime_s
        self._began = time.monotonic()
        self._is_left = False
        self._over = anyio.Event()
        self._end: Exit | None = None
        self._error: MrunError | None = None

    # ------------------------------------------------------------------------------------------------- for its slot

    @property
    def elapsed_s(self) -> float:
        """Seconds since its slot took it: its time in the scheduler's queue is part of it."""
        return time.monotonic() - self._began

    @property
    def has_left_others(self) -> bool:
        """Schedulers see to that."""
        return False

    async def wait_within(self, timeout_s: float) -> Exit | None:
        """Wait for its end, or so long; safe to cancel and to call again.

        Raises:
            LaunchError: it came to no end of its own: it was refused, its node failed, nobody knows.
            LauncherError: nothing of its study can be submitted here.
            JobLeftError: it was left, or is to be tried again.
        """
        with anyio.move_on_after(timeout_s):
            await self._over.wait()
        if self._error is not None:
            raise self._error
        return self._end

    def signal(self, number: int) -> None:
        """Cancel it, whatever the number: schedulers end jobs in their own way. One that was left is not cancelled."""
        if self._is_left:
            return
        if not (self.job or self.is_in_flight or self.may_have_job):
            self.end_unsubmitted()
        elif not self.is_cancel_asked:
            self.is_cancel_asked = True
            self._watch_wanted.set()

    @property
    def has_rest(self) -> bool:
        """None here: schedulers see to that."""
        return False

    def end_rest(self) -> None:
        """Schedulers see to that."""

    def leave(self) -> None:
        """Let it go on without this worker, unless it is to be cancelled: who claims the sample next awaits it."""
        self._is_left = True
        # While it is being submitted its id is not known, and would be lost.
        if not self.is_in_flight and not self.is_cancel_asked:
            self.fail(JobLeftError(has_begun=self.has_run))

    def close(self) -> None:
        """Forget it. If it has not ended it goes on."""
        self.leave()

    # ------------------------------------------------------------------------------------------------- for its watch

    @property
    def is_over(self) -> bool:
        """It has ended, or goes on without this worker."""
        return self._over.is_set()

    def request(self, made: Ready) -> tuple[Job, Mapping[str, str]]:
        """What is submitted, and the variables that it gets, when its files were made."""
        terms = self.terms
        job = Job(
            script_path=wrapper_of(made),
            arguments=(made.script, code_path(made), self.name),
            directory=made.directory,
            out_path=str(made.out),
            err_path=str(made.err),
            name=self.name,
            needs=made.instance.text.terms.needs,
            account=terms,
            extra=terms.extra,
        )
        return job, {**self._variables, "MRUN_RESUME": "1"} if made.is_resumed else self._variables

    def submitted(self, job: str) -> None:
        """It has an id, or (empty) did not get one now. Who wanted to leave it meanwhile can."""
        self.job, self.is_in_flight, self.may_have_job = job, False, not job
        if self._is_left:
            self.leave()

    def end_unsubmitted(self) -> None:
        """It was cancelled before it was a job."""
        self.end(Exit(-signal.SIGTERM, 1000 * self.elapsed_s))

    def conclude(self, end: End) -> None:
        """Its scheduler says that it has ended, or knows it no more: what it has left itself tells the rest."""
        left = self.files.code(self.ready)
        found = exit_of(end, left, self._title, self._walltime_s)
        if isinstance(found, str):
            has_begun = end.kind is not EndKind.REFUSED and (self.has_run or os.path.exists(str(self.ready.out)))
            self.files.forget(self.ready)
            self.fail(LaunchError(found, has_begun=has_begun, is_counted=end.kind is not EndKind.PREEMPTED))
            return
        elapsed_s = left.elapsed_s if left else self.elapsed_s
        self.end(Exit(found[0], 1000 * elapsed_s, why=found[1]))

    def end(self, end: Exit) -> None:
        """It has ended; what comes later does not count."""
        if not self.is_over:
            self._end = end
            self._over.set()

    def fail(self, error: MrunError) -> None:
        """It comes to no end here; what comes later does not count."""
        if not self.is_over:
            self._error = error
            self._over.set()


def exit_of(end: End, left: LeftCode | None, title: str, walltime_s: float | None) -> tuple[int, str] | str:
    """How a job ended, by what its scheduler says and what it has left itself.

    Returns:
        Exit code (negative: a signal), and why it was ended, if that was not the script's doing. Or a sentence: it came
        to no end that is the script's own.
    """
    # A code that the script chose counts, whatever happened to its job then, or made it choose that.
    by_signal = (EndKind.EXITED, EndKind.SIGNALLED, EndKind.UNKNOWN)
    if left is not None and (left.code <= _LAST_OWN_CODE or end.kind in by_signal):
        end = end_by_code(left.code)
    match end.kind:
        case EndKind.EXITED:
            return end.code, ""
        case EndKind.SIGNALLED:
            return -end.signal, ""
        case EndKind.TIMED_OUT:
            limit = f"its walltime of {walltime_s:g} s" if walltime_s else f"{title} allows"
            return -signal.SIGTERM, f"ran longer than {limit}"
        case EndKind.CANCELLED:
            return -signal.SIGTERM, f"was cancelled in {title}"
        case _:
            return told_of(end)
