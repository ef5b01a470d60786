"""What every scheduler promises that takes whole scripts as jobs. Pure: words to call, and answers to read."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from mrun.engine.errors import LauncherAwayError, LauncherError
from mrun.launchers.resources import Account, Needs


class Output(msgspec.Struct, frozen=True):
    """What a short command answered: its exit code (negative: the signal that ended it), stdout, stderr."""

    code: int
    out: str = ""
    err: str = ""


class JobState(enum.Enum):
    """Where a job is."""

    #: The scheduler has it, and nothing of it has begun. Held jobs, and jobs that will be started again, too.
    QUEUED = "queued"
    #: It has resources: it starts, runs, is stopped for a while, or cleans up.
    RUNNING = "running"
    #: It will never run again.
    ENDED = "ended"
    #: The scheduler does not know it (any more), or uses a word that mrun does not know.
    UNKNOWN = "unknown"


class EndKind(enum.Enum):
    """What ended a script."""

    #: Itself, with an exit code.
    EXITED = "exited"
    SIGNALLED = "signalled"
    #: Its walltime.
    TIMED_OUT = "timed_out"
    #: A node of it died, or was taken away. It is not the script's fault.
    NODE_FAILED = "node_failed"
    #: A job of higher rank took its place. It is nobody's fault.
    PREEMPTED = "preempted"
    #: A user, or an administrator.
    CANCELLED = "cancelled"
    #: It was never started: what it asks for can't be given. `why` has the scheduler's words.
    REFUSED = "refused"
    #: Nobody knows.
    UNKNOWN = "unknown"


#: Ends that are not the script's doing.
_SENTENCES = {
    EndKind.NODE_FAILED: "Its node failed",
    EndKind.PREEMPTED: "Its place was taken by a job of higher rank",
    EndKind.REFUSED: "The scheduler did not start it",
    EndKind.TIMED_OUT: "The allocation has ended",
    EndKind.UNKNOWN: "Nobody knows how it ended",
}


class End(msgspec.Struct, frozen=True):
    """How a script ended. `code` is -1 and `signal` 0 where there is none; `why` is the scheduler's own word."""

    kind: EndKind
    code: int = -1
    signal: int = 0
    why: str = ""

    @property
    def sentence(self) -> str:
        """What a user reads of an end that is not the script's doing; empty for the others."""
        what = _SENTENCES.get(self.kind, "")
        return what and (f"{what}: {self.why}." if self.why else f"{what}.")


class RefusedError(LauncherError):
    """A scheduler has answered, and the answer is no."""


class Job(msgspec.Struct, frozen=True):
    """A script to be run once as a job.

    Attributes:
        script_path: absolute. It must be there until the job has ended, and be seen from the nodes.
        directory: its working directory, absolute.
        out_path, err_path: the scheduler makes them when the job begins (LSF and PBS: when it has ended). All but
            Flux append to what is there.
        name: for people who look at the queue, and for whoever has lost the id of a job.
        extra: words of the user's for this scheduler, after all others.
        arguments: of the script.
    """

    script_path: str
    directory: str
    out_path: str
    err_path: str
    name: str = "mrun"
    needs: Needs = Needs()
    account: Account = Account()
    extra: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


class JobStatus(msgspec.Struct, frozen=True):
    """What a scheduler says of a job: `word` is its own word, `why` its reason. A job that has ended has an end."""

    job: str
    state: JobState
    word: str = ""
    why: str = ""
    end: End | None = None


class Query(Protocol):
    """One question about many jobs."""

    def command(self, jobs: Sequence[str]) -> tuple[str, ...]:
        """The words that ask for all these jobs at once."""

    def read(self, output: Output) -> list[JobStatus]:
        """What was answered. Jobs that this query does not know are not in it, and are no error.

        Raises:
            LauncherAwayError: the scheduler could not answer now.
            LauncherError: it never will, for a reason that is in the message.
        """


class Scheduler(Protocol):
    """Takes scripts as jobs.

    A job's id is what later calls name it by; it is valid as long as the scheduler remembers the job. A job is never
    started a second time by the scheduler: after a node failed it is mrun that decides.
    """

    #: What people call it; and the key of a step's extra words for whoever submits.
    title: str
    text_key: str
    #: Words for `Job.extra` with which a job waits until somebody releases it.
    held: tuple[str, ...]
    #: Asked one after another: each only for the jobs that those before it did not know.
    queries: tuple[Query, ...]

    def submit_command(self, job: Job) -> tuple[str, ...]:
        """The words that submit a job. The environment of the call becomes the job's."""

    def job_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The environment for that call, without what tells of the allocation that the caller may be in."""

    def read_submitted(self, output: Output) -> str:
        """The id of the job that was submitted.

        Raises:
            LauncherAwayError: not now: the scheduler does not answer, or the user has as many jobs as allowed.
            LauncherError: refused; the message has all that the scheduler said.
        """

    def find_command(self, name: str) -> tuple[str, ...]:
        """The words that ask for the user's jobs of that name, also for those that have ended."""

    def read_found(self, output: Output, name: str) -> list[str]:
        """The ids of the jobs of that name, as far as they are remembered, the newest last.

        Raises:
            LauncherAwayError, LauncherError: as for `Query.read`.
        """

    def cancel_command(self, jobs: Sequence[str]) -> tuple[str, ...]:
        """The words that cancel jobs. Cancelling what has ended is no error."""

    def read_cancelled(self, output: Output) -> None:
        """See whether the call has worked.

        Raises:
            LauncherAwayError, LauncherError: as for `read_submitted`.
        """


def end_by_code(code: int, why: str = "") -> End:
    """The end that an exit code tells, as shells have it: 128 + n stands for signal n."""
    if code < 0 or 128 < code <= 192:
        return End(EndKind.SIGNALLED, signal=-code if code < 0 else code - 128, why=why)
    return End(EndKind.EXITED, code=code, why=why)


def refusal(program: str, output: Output, passing: Iterable[str]) -> LauncherError:
    """The error for a call that failed, with all that the program said.

    Args:
        passing: phrases, in small letters, by which the program says that it may work later.
    """
    said = output.err.strip() or output.out.strip() or "it said nothing"
    message = f"'{program}' failed with exit code {output.code}: {said}"
    lowered = said.lower()
    if any(phrase in lowered for phrase in passing):
        return LauncherAwayError(message, hint="It may work later: nothing is lost by waiting.")
    return RefusedError(message, hint="Correct what the job asks for, or ask the people who run the machine.")
