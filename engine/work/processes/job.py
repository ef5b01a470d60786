"""A sample that is a batch job (`mode: job`), as its slot sees it: like a process that was started.

What differs: it waits for its turn, it runs where its scheduler wants, and it does not end with its worker. Whoever
claims its sample finds its id in the sample's directory, and awaits it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from mrun.engine.errors import MrunError
from mrun.engine.plan.model import JobTerms
from mrun.engine.work.files.job import JobSample
from mrun.engine.work.files.way import SampleFiles
from mrun.engine.work.outcomes import Exit, HandBackError
from mrun.engine.work.processes.launched import sentence_of
from mrun.engine.work.processes.process import Process
from mrun.engine.work.wakeup import Wakeup
from mrun.launchers.schedulers import End, EndKind, Job, end_by_code

#: Codes of shells above it stand for signals: the script did not choose them.
_LAST_OWN_CODE = 128


class JobProcess(Process):
    """One execution of a sample, from its turn to its end.

    Args:
        files: the names of its files; nothing is made before it is submitted.
        variables: the environment of the job.
        title: what people call its scheduler.
        watch_wanted: wakes the watch that asks the scheduler.
    """

    outlives_worker = True

    def __init__(self, files: JobSample, variables: Mapping[str, str], title: str, watch_wanted: Wakeup) -> None:
        super().__init__()
        text = files.sample.text
        self.files, self.name = files, files.name
        self.terms = text.terms.job or JobTerms()
        #: Jobs of one step share its throttle.
        self.step = (files.sample.claim.study, text.step.index)
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
        self._walltime_s = text.terms.walltime_s
        self._is_left = False

    # ------------------------------------------------------------------------------------------------- for its slot

    @property
    def has_begun(self) -> bool:
        """Whether it was seen to run."""
        return self.has_run

    def signal(self, number: int) -> None:
        """Cancel it, whatever the number: schedulers end jobs in their own way. One that was left is not cancelled."""
        if self._is_left:
            return
        if not (self.job or self.is_in_flight or self.may_have_job):
            self.end_unsubmitted()
        elif not self.is_cancel_asked:
            self.is_cancel_asked = True
            self._watch_wanted.set()

    def leave(self) -> None:
        """Let it go on without this worker, unless it is to be cancelled: who claims the sample next awaits it."""
        self._is_left = True
        # While it is being submitted its id is not known, and would be lost.
        if not self.is_in_flight and not self.is_cancel_asked:
            self.fail(HandBackError("The job goes on without this worker.", has_begun=self.has_run, is_left=True))

    def close(self) -> None:
        """Forget it. If it has not ended it goes on."""
        self.leave()

    # ------------------------------------------------------------------------------------------------- for its watch

    def request(self, made: SampleFiles) -> tuple[Job, Mapping[str, str]]:
        """What is submitted, and the variables that it gets, when its files were made."""
        terms, files = self.terms, self.files
        job = Job(
            script_path=files.wrapper_path,
            arguments=(made.script, files.code_path, self.name),
            directory=made.directory,
            out_path=str(made.out),
            err_path=str(made.err),
            name=self.name,
            needs=made.sample.text.terms.needs,
            bank=terms.bank,
            queue=terms.queue,
            qos=terms.qos,
            reservation=terms.reservation,
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
        self._finish(Exit(-signal.SIGTERM, 1000 * self.elapsed_s))

    def conclude(self, end: End) -> None:
        """Its scheduler says that it has ended, or knows it no more: what it has left itself tells the rest."""
        left = self.files.left()
        found = exit_of(end, left, self._title, self._walltime_s)
        if isinstance(found, str):
            has_begun = end.kind is not EndKind.REFUSED and (self.has_run or os.path.exists(str(self.files.out)))
            self.files.forget()
            self.fail(HandBackError(found, has_begun=has_begun, is_counted=end.kind is not EndKind.PREEMPTED))
            return
        elapsed_ms = left.elapsed_ms if left else 1000 * self.elapsed_s
        self._finish(Exit(found[0], elapsed_ms, why=found[1]))

    def fail(self, error: MrunError) -> None:
        """It comes to no end here; what comes later does not count."""
        self._finish(error)


def exit_of(end: End, left: Exit | None, title: str, walltime_s: float | None) -> tuple[int, str] | str:
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
            return sentence_of(end)
