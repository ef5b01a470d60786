"""Jobs of Flux: `flux batch`, `flux jobs`, `flux cancel`, as flux-core 0.88 was seen to behave.

States: https://flux-framework.readthedocs.io/projects/flux-core/en/latest/man1/flux-jobs.html.
A call of these costs a tenth of a second, for one job or many.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mrun.engine.logging import log
from mrun.launchers.schedulers import End, EndKind, Job, JobState, JobStatus, Output, Query, end_by_code, refusal

#: Flux' word → ours, and for ended jobs what ended them (EXITED: exception and wait status tell).
STATES: dict[str, tuple[JobState, EndKind | None]] = {
    **dict.fromkeys(("DEPEND", "PRIORITY", "SCHED"), (JobState.QUEUED, None)),
    **dict.fromkeys(("RUN", "CLEANUP"), (JobState.RUNNING, None)),
    **dict.fromkeys(("COMPLETED", "FAILED"), (JobState.ENDED, EndKind.EXITED)),
    "CANCELED": (JobState.ENDED, EndKind.CANCELLED),
    "TIMEOUT": (JobState.ENDED, EndKind.TIMED_OUT),
}
#: Types of exceptions that say what ended a job; with any other, its exit code does.
EXCEPTIONS = {
    "alloc": EndKind.REFUSED,
    "validate": EndKind.REFUSED,
    "depend": EndKind.REFUSED,
    "cancel": EndKind.CANCELLED,
    "timeout": EndKind.TIMED_OUT,
    "node-failure": EndKind.NODE_FAILED,
}
#: What Flux says when it may take the call later.
_PASSING = ("unable to connect", "queue is disabled", "submission is disabled", "connection refused", "timed out")
#: Of jobs that have ended, or that it has forgotten.
_GONE = re.compile(r"job is inactive|unknown job id|JobID \S+ unknown")
_COLUMNS = ("id.dec", "status", "waitstatus", "exception.type", "exception.note")
#: RFC 19's digits: https://flux-framework.readthedocs.io/projects/flux-rfc/en/latest/spec_19.html.
_DIGITS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_ID = re.compile(rf"^(?:[ƒf]([{_DIGITS}]+)|(\d+))$", re.MULTILINE)


class _FluxJobs(Query):
    """`flux jobs`: all that the instance remembers, which is all of its jobs."""

    def command(self, jobs: Sequence[str]) -> tuple[str, ...]:
        return ("flux", "jobs", "--no-header", f"--format={'|'.join(f'{{{name}}}' for name in _COLUMNS)}", *jobs)

    def read(self, output: Output) -> list[JobStatus]:
        # Those that are known are printed all the same.
        if output.code != 0 and not _all_gone(output.err):
            raise refusal("flux jobs", output, _PASSING)
        rows = (line.split("|", len(_COLUMNS) - 1) for line in output.out.splitlines())
        return [_status(*row) for row in rows if len(row) == len(_COLUMNS)]


class FluxScheduler:
    """Jobs by `flux batch`."""

    title, text_key = "Flux", "flux"
    held: tuple[str, ...] = ("--urgency=0",)
    queries: tuple[Query, ...] = (_FluxJobs(),)

    def submit_command(self, job: Job) -> tuple[str, ...]:
        """An instance of its own for each job: `flux submit` would start a copy of the script for each process, and
        `flux run` in it would wait for cores that it holds itself.
        """
        needs = job.needs
        options = {
            "job-name": job.name,
            "cwd": job.directory,
            "output": job.out_path,
            "error": job.err_path,
            # Whole nodes are only given by their number.
            "nodes": str(needs.nodes if needs.nodes > 1 or needs.is_exclusive else ""),
            "nslots": str(needs.procs),
            "cores-per-slot": str(needs.cores_per_task),
            "gpus-per-slot": str(-(-needs.gpus // needs.procs) or ""),
            "time-limit": f"{float(needs.walltime_s)}s" if needs.walltime_s else "",
            "queue": job.account.queue,
            "bank": job.account.bank,
        }
        given = (f"--{name}={value}" for name, value in options.items() if value)
        exclusive = ("--exclusive",) if needs.is_exclusive else ()
        return ("flux", "batch", *given, *exclusive, *job.extra, job.script_path, *job.arguments)

    def job_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Flux sets anew what tells of an instance."""
        return dict(environment)

    def read_submitted(self, output: Output) -> str:
        """The id in decimals, however the locale lets Flux write it. A job that can't be satisfied has one, too."""
        found = _ID.search(output.out)
        if output.code != 0 or found is None:
            raise refusal("flux batch", output, _PASSING)
        return found[2] or str(decimal(found[1]))

    def find_command(self, name: str) -> tuple[str, ...]:
        """Also those that have ended."""
        return ("flux", "jobs", "--no-header", "-a", f"--name={name}", "--format={id.dec}")

    def read_found(self, output: Output, name: str) -> list[str]:
        """Ids grow with the time of submission."""
        if output.code != 0:
            raise refusal("flux jobs", output, _PASSING)
        return sorted(output.out.split(), key=int)

    def cancel_command(self, jobs: Sequence[str]) -> tuple[str, ...]:
        """Never by a signal to the client: it is not passed on to jobs that wait."""
        return ("flux", "cancel", *jobs)

    def read_cancelled(self, output: Output) -> None:
        """Complaints about jobs that have ended are none."""
        if output.code != 0 and not _all_gone(output.err):
            raise refusal("flux cancel", output, _PASSING)


def decimal(digits: str) -> int:
    """The number of an id, whose `ƒ` is left out."""
    number = 0
    for digit in digits:
        number = number * len(_DIGITS) + _DIGITS.index(digit)
    return number


def _all_gone(complaints: str) -> bool:
    lines = [line for line in complaints.splitlines() if line.strip()]
    return bool(lines) and all(_GONE.search(line) for line in lines)


def _status(job: str, word: str, wait_status: str, exception: str, note: str) -> JobStatus:
    known = STATES.get(word)
    if known is None:
        log.warning("job_state_unknown", job=job, state=word)
        return JobStatus(job, JobState.UNKNOWN, word, note)
    state, kind = known
    if kind is None:
        return JobStatus(job, state, word, note)
    kind = EXCEPTIONS.get(exception, kind) if kind is EndKind.EXITED else kind
    if kind is not EndKind.EXITED:
        return JobStatus(job, state, word, note, End(kind, why=note or exception or word))
    if not wait_status.isdigit():
        return JobStatus(job, state, word, note, End(EndKind.REFUSED, why=note or exception or word))
    number = int(wait_status) & 0x7F
    return JobStatus(job, state, word, note, end_by_code(-number if number else int(wait_status) >> 8, note))
