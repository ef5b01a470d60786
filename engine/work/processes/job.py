"""A sample that is a batch job (`mode: job`): its files, and its process as its slot sees it.

It waits for its turn, it runs where its scheduler wants, and it does not end with its worker. Whoever claims its sample
finds its job by two files that the sample has beside those of any other, and awaits it:

    <inst>.job     which job it is; without an id while it is being submitted
    <inst>.code    the job's last act: name of the execution, exit code, seconds that the script ran

Both name the execution that they are of: those of an earlier attempt say nothing about a later one. They are replaced
by rename, so that nobody reads half of one.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping

import msgspec

from mrun.engine.atomic_file import replaced_file
from mrun.engine.errors import HandBackError, MrunError
from mrun.engine.language.places import JOURNAL_DIR
from mrun.engine.plan.model import JobTerms
from mrun.engine.work.files.full import FullFiles, FullSample
from mrun.engine.work.files.way import ClaimedSample, SampleFiles, write_script
from mrun.engine.work.outcomes import Exit
from mrun.engine.work.processes.process import Process
from mrun.launchers.schedulers import End, EndKind, Job, end_by_code

#: Codes of shells above it stand for signals: the script did not choose them.
_LAST_OWN_CODE = 128


JOB_VERSION = 1
_WRAPPER_NAME = "job.sh"
#: What is submitted: one script for all samples of a study. `date` counts seconds: jobs are not short.
_WRAPPER = b"""\
#!/bin/sh
# Runs a sample's script as a batch job, and leaves its exit code to the worker that awaits it, or to the next one.
# $1 the script, $2 the file for the code, $3 the name of this execution
began=$(date +%s)
"$1"
code=$?
echo "$3 $code $(($(date +%s) - began))" > "$2.new" && mv -f "$2.new" "$2"
exit "$code"
"""


class JobRecord(msgspec.Struct, frozen=True):
    """Which job an execution is. `job` is its scheduler's id; empty: it is being submitted, or may have been."""

    name: str
    scheduler: str
    job: str = ""
    version: int = JOB_VERSION


class JobSample(FullSample, kw_only=True):
    """A sample that is a job, or is to be one. Nothing is made before it is known that no job may be writing."""

    @property
    def name(self) -> str:
        """The name of this execution, which no other has."""
        claim = self.sample.claim
        return f"mrun-{claim.study}-{claim.node}-{self.sample.number}-{claim.attempt}"

    @property
    def wrapper_path(self) -> str:
        """The path of what is submitted."""
        return f"{self.sample.workspace}/{JOURNAL_DIR}/{_WRAPPER_NAME}"

    @property
    def code_path(self) -> str:
        """Where the job leaves its exit code."""
        return f"{self._stem}.code"

    def enter(self) -> None:
        """Its job may run already. See `make`."""

    def make(self) -> FullSample:
        """Directory and scripts, and what is to be submitted. Raises OSError, and WorkspaceError for the sample."""
        made = FullFiles().prepare(self.sample)
        made.enter()
        if not os.path.exists(self.wrapper_path):
            write_script(self.wrapper_path, _WRAPPER)
        return made

    def record(self) -> JobRecord | None:
        """The job that this execution is, if it was ever to be one."""
        try:
            with open(self._record_path, "rb") as file:
                found = msgspec.json.decode(file.read(), type=JobRecord)
        except (OSError, msgspec.DecodeError):
            return None
        return found if found.name == self.name and found.version == JOB_VERSION else None

    def note(self, record: JobRecord) -> None:
        """Keep which job it is. Raises OSError."""
        with replaced_file(self._record_path) as file:
            file.write(msgspec.json.encode(record))

    def left(self) -> Exit | None:
        """What the job left, if it has ended by itself. Its code is as shells have it: 128 + n stands for signal n."""
        try:
            with open(self.code_path, encoding="utf-8", errors="replace") as file:
                name, code, seconds = file.read().split()
            return Exit(int(code), 1000 * float(seconds)) if name == self.name else None
        except (OSError, ValueError):
            return None

    def forget(self) -> None:
        """There is no such job, or it came to nothing. Raises nothing."""
        for path in (self._record_path, self.code_path):
            with contextlib.suppress(OSError):
                os.unlink(path)

    @property
    def _record_path(self) -> str:
        return f"{self._stem}.job"

    @property
    def _stem(self) -> str:
        return f"{self.directory}/{self.sample.text.instance_name}"


class JobFiles(FullFiles):
    """Full files, which are made when a sample's job is to be submitted."""

    def prepare(self, sample: ClaimedSample) -> JobSample:
        """Only names. See `JobSample.make`."""
        directory = sample.text.sample_directory(sample.number)
        script = f"{directory}/{sample.text.script_name()}"
        out, err = sample.stream_paths
        return JobSample(sample=sample, directory=directory, script=script, out=out, err=err, is_resumed=False)


class JobProcess(Process):
    """One execution of a sample, from its turn to its end.

    Args:
        files: the names of its files; nothing is made before it is submitted.
        variables: the environment of the job.
        title: what people call its scheduler.
        ask_watch: wakes the watch that asks the scheduler.
    """

    outlives_worker = True

    def __init__(
        self, files: JobSample, variables: Mapping[str, str], title: str, ask_watch: Callable[[], None]
    ) -> None:
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
        self._variables, self._title, self._ask_watch = variables, title, ask_watch
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
            self._ask_watch()

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
            return end.sentence
