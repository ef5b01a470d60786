"""Jobs of PBS Pro and OpenPBS: `qsub`, `qstat`, `qdel`.

States, substates and exit values: the reference guide, chapters "States" and "Job Exit Status Codes",
https://help.altair.com/2022.1.0/PBS%20Professional/PBSReferenceGuide2022.1.pdf.
"""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Mapping, Sequence

import msgspec

from mrun.engine.logging import log
from mrun.launchers.resources import clock
from mrun.launchers.schedulers import End, EndKind, Job, JobState, JobStatus, Output, Query, end_by_code, refusal

#: PBS' letter → ours.
STATES = {
    **dict.fromkeys("QHTWM", JobState.QUEUED),
    **dict.fromkeys("RESUB", JobState.RUNNING),
    **dict.fromkeys("FX", JobState.ENDED),
}
#: Of a job that was deleted.
_DELETED = 91
#: Exit values by which the node's daemon says what limit it has enforced; other negative ones are its own failures.
_LIMITS = {-29: EndKind.TIMED_OUT, -28: EndKind.TIMED_OUT, -27: EndKind.SIGNALLED, -26: EndKind.SIGNALLED}
#: Added to the number of a signal.
_SIGNALLED = 256
#: What PBS says when it may take the call later.
_PASSING = (
    *("cannot connect to server", "connection refused", "server not responding", "timed out", "end of file"),
    *("would exceed", "maximum number of jobs", "limit of jobs"),
)
_GONE = re.compile(r"unknown job id|job has finished", re.IGNORECASE)
#: What a name may hold, and how long it may be.
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")
_NAME_LENGTH = 15


class PbsJob(msgspec.Struct, frozen=True):
    """What mrun reads of a job; names are PBS' own."""

    job_state: str = ""
    substate: int = 0
    Exit_status: int | None = None
    comment: str = ""
    Resource_List: dict[str, str | int | float] = {}
    resources_used: dict[str, str | int | float] = {}


class _Jobs(msgspec.Struct, frozen=True):
    Jobs: dict[str, PbsJob] = {}


class _Qstat(Query):
    """All that the server remembers (-x: ended jobs, too, if it keeps a history)."""

    def command(self, jobs: Sequence[str]) -> tuple[str, ...]:
        return ("qstat", "-x", "-f", "-F", "json", *jobs)

    def read(self, output: Output) -> list[JobStatus]:
        complaints = [line for line in output.err.splitlines() if line.strip() and not _GONE.search(line)]
        if output.code != 0 and complaints:
            raise refusal("qstat", output, _PASSING)
        return [_status(name, job) for name, job in read_jobs(output).items()]


class PbsScheduler:
    """Jobs by `qsub`."""

    title, text_key = "PBS", "pbs"
    held: tuple[str, ...] = ("-h",)
    queries: tuple[Query, ...] = (_Qstat(),)

    def submit_command(self, job: Job) -> tuple[str, ...]:
        """-r n: PBS would start it again after a node failed. Jobs begin at home: a shell goes to the directory."""
        needs = job.needs
        tasks = -(-needs.procs // needs.nodes)
        chunk = f"select={needs.nodes}:ncpus={tasks * needs.cores_per_task}:mpiprocs={tasks}"
        options = {
            "-N": _short(job.name),
            "-o": job.out_path,
            "-e": job.err_path,
            "-l": chunk + (f":ngpus={-(-needs.gpus // needs.nodes)}" if needs.gpus else ""),
            "-A": job.account.bank,
            "-q": job.account.queue,
        }
        given = [word for name, value in options.items() if value for word in (name, value)]
        given += ["-l", f"walltime={clock(needs.walltime_s)}"] if needs.walltime_s else []
        given += ["-l", "place=excl"] if needs.is_exclusive else []
        go = ("--", "/bin/sh", "-c", 'cd "$0" && exec "$@"', job.directory, job.script_path, *job.arguments)
        return ("qsub", "-V", "-r", "n", *given, *job.extra, *go)

    def job_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """PBS sets anew what tells of an allocation."""
        return dict(environment)

    def read_submitted(self, output: Output) -> str:
        """`12.server`."""
        found = re.search(r"^(\d+(?:\.\S+)?)$", output.out, re.MULTILINE)
        if output.code != 0 or found is None:
            raise refusal("qsub", output, _PASSING)
        return found[1]

    def find_command(self, name: str) -> tuple[str, ...]:
        """By qselect, which prints ids."""
        return ("qselect", "-x", "-N", _short(name))

    def read_found(self, output: Output, name: str) -> list[str]:
        """Ids grow."""
        if output.code != 0:
            raise refusal("qselect", output, _PASSING)
        return sorted(output.out.split(), key=lambda job: int(job.partition(".")[0]))

    def cancel_command(self, jobs: Sequence[str]) -> tuple[str, ...]:
        """By qdel."""
        return ("qdel", *jobs)

    def read_cancelled(self, output: Output) -> None:
        """Complaints about jobs that have ended are none."""
        complaints = [line for line in output.err.splitlines() if line.strip() and not _GONE.search(line)]
        if output.code != 0 and complaints:
            raise refusal("qdel", output, _PASSING)


def _short(name: str) -> str:
    """A name that PBS takes. One that is too long ends with a digest: it is still nobody else's."""
    allowed = f"m{_NOT_IN_NAMES.sub('_', name)}"
    if len(allowed) <= _NAME_LENGTH:
        return allowed
    return "m" + hashlib.sha256(name.encode()).hexdigest()[: _NAME_LENGTH - 1]


def read_jobs(output: Output) -> dict[str, PbsJob]:
    """Jobs by id; {} for an answer that can't be read."""
    try:
        return msgspec.json.decode(output.out, type=_Jobs, strict=False).Jobs
    except msgspec.DecodeError:
        return {}


def seconds_of(text: str) -> int:
    """`[[hh:]mm:]ss` in seconds; 0 for what is no time."""
    parts = text.split(":")
    if not all(part.isdigit() for part in parts):
        return 0
    total = 0
    for part in parts:
        total = 60 * total + int(part)
    return total


def _status(name: str, job: PbsJob) -> JobStatus:
    state = STATES.get(job.job_state)
    if state is None:
        log.warning("job_state_unknown", job=name, state=job.job_state)
        return JobStatus(name, JobState.UNKNOWN, job.job_state, job.comment)
    end = _end(job) if state is JobState.ENDED else None
    return JobStatus(name, state, job.job_state, job.comment, end)


def _end(job: PbsJob) -> End:
    status = job.Exit_status
    if job.substate == _DELETED or status is None:
        return End(EndKind.CANCELLED, why=job.comment or "deleted")
    if status < 0:
        kind = _LIMITS.get(status, EndKind.NODE_FAILED)
        number = signal.SIGKILL if kind is EndKind.SIGNALLED else 0
        return End(kind, signal=number, why=job.comment or f"exit value {status}")
    return end_by_code(_SIGNALLED - status if status > _SIGNALLED else status, job.comment)
