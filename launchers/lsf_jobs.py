"""Jobs of LSF: `bsub`, `bjobs`, `bkill`.

States: https://www.ibm.com/docs/en/spectrum-lsf/10.1.0?topic=execution-about-job-states.
Why a job was ended: https://www.ibm.com/docs/en/spectrum-lsf/10.1.0?topic=jobs-lsf-job-termination-reason-logging.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence

from mrun.engine.logging import log
from mrun.launchers.schedulers import End, EndKind, Job, JobState, JobStatus, Output, Query, end_by_code, refusal

#: LSF's word → ours, and for ended jobs what ended them (EXITED: reason and exit code tell).
STATES: dict[str, tuple[JobState, EndKind | None]] = {
    **dict.fromkeys(("PEND", "PSUSP", "WAIT", "FWD_PEND"), (JobState.QUEUED, None)),
    # UNKWN: the host does not answer; the job may go on there.
    **dict.fromkeys(("RUN", "PROV", "SSUSP", "USUSP", "UNKWN"), (JobState.RUNNING, None)),
    **dict.fromkeys(("DONE", "EXIT"), (JobState.ENDED, EndKind.EXITED)),
    "ZOMBI": (JobState.ENDED, EndKind.NODE_FAILED),
}
_REASONS = {
    "TERM_RUNLIMIT": EndKind.TIMED_OUT,
    "TERM_DEADLINE": EndKind.TIMED_OUT,
    "TERM_CPULIMIT": EndKind.TIMED_OUT,
    "TERM_OWNER": EndKind.CANCELLED,
    "TERM_FORCE_OWNER": EndKind.CANCELLED,
    "TERM_ADMIN": EndKind.CANCELLED,
    "TERM_FORCE_ADMIN": EndKind.CANCELLED,
    "TERM_PREEMPT": EndKind.PREEMPTED,
    "TERM_REMOVE_HUNG_JOB": EndKind.NODE_FAILED,
    "TERM_ZOMBIE": EndKind.NODE_FAILED,
}
#: What LSF says when it may take the call later.
_PASSING = (
    *("lsf is down", "mbatchd is not responding", "batch daemon not responding", "cannot connect", "timed out"),
    *("pending job threshold reached", "batch system concurrent query limit exceeded", "please wait"),
)
_GONE = re.compile(r"is not found|already finished|no (matching )?job found", re.IGNORECASE)
_COLUMNS = ("jobid", "stat", "exit_code", "exit_reason", "pend_reason")


class _Bjobs(Query):
    """All that mbatchd remembers (CLEAN_PERIOD, an hour by default)."""

    def command(self, jobs: Sequence[str]) -> tuple[str, ...]:
        return ("bjobs", "-a", "-noheader", "-o", f"{' '.join(_COLUMNS)} delimiter='|'", *jobs)

    def read(self, output: Output) -> list[JobStatus]:
        complaints = [line for line in output.err.splitlines() if line.strip() and not _GONE.search(line)]
        if complaints and output.code != 0:
            raise refusal("bjobs", output, _PASSING)
        rows = (line.split("|", len(_COLUMNS) - 1) for line in output.out.splitlines())
        return [_status(*(part.strip() for part in row)) for row in rows if len(row) == len(_COLUMNS)]


class LsfScheduler:
    """Jobs by `bsub`."""

    title, text_key = "LSF", "lsf"
    held: tuple[str, ...] = ("-H",)
    queries: tuple[Query, ...] = (_Bjobs(),)

    def submit_command(self, job: Job) -> tuple[str, ...]:
        """-rn: LSF would start it again after a node failed. Nodes are whole: jsrun divides them."""
        needs = job.needs
        options = {
            "-J": job.name,
            "-cwd": job.directory,
            "-o": job.out_path,
            "-e": job.err_path,
            "-nnodes": str(needs.nodes),
            "-W": str(math.ceil(needs.walltime_s / 60)) if needs.walltime_s else "",
            "-G": job.account.bank,
            "-q": job.account.queue,
            "-U": job.account.reservation,
        }
        given = [word for name, value in options.items() if value for word in (name, value)]
        # LSF gives the words to a shell.
        command = shlex.join((job.script_path, *job.arguments))
        return ("bsub", "-rn", *given, *(("-x",) if needs.is_exclusive else ()), *job.extra, command)

    def job_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """LSF sets anew what tells of an allocation."""
        return dict(environment)

    def read_submitted(self, output: Output) -> str:
        """`Job <12> is submitted to queue <batch>.`"""
        found = re.search(r"Job <(\d+)> is submitted", output.out)
        if output.code != 0 or found is None:
            raise refusal("bsub", output, _PASSING)
        return found[1]

    def find_command(self, name: str) -> tuple[str, ...]:
        """By bjobs."""
        return ("bjobs", "-a", "-noheader", "-J", name, "-o", "jobid")

    def read_found(self, output: Output, name: str) -> list[str]:
        """Ids grow, until after a million jobs they begin anew."""
        complaints = [line for line in output.err.splitlines() if line.strip() and not _GONE.search(line)]
        if output.code != 0 and complaints:
            raise refusal("bjobs", output, _PASSING)
        return sorted(output.out.split(), key=int)

    def cancel_command(self, jobs: Sequence[str]) -> tuple[str, ...]:
        """By bkill."""
        return ("bkill", *jobs)

    def read_cancelled(self, output: Output) -> None:
        """Complaints about jobs that have ended are none."""
        complaints = [line for line in output.err.splitlines() if line.strip() and not _GONE.search(line)]
        if output.code != 0 and complaints:
            raise refusal("bkill", output, _PASSING)


def _status(job: str, word: str, code: str, reason: str, pending: str) -> JobStatus:
    known = STATES.get(word)
    why = next((text for text in (reason, pending) if text not in ("", "-")), "")
    if known is None:
        log.warning("job_state_unknown", job=job, state=word)
        return JobStatus(job, JobState.UNKNOWN, word, why)
    state, kind = known
    if kind is None:
        return JobStatus(job, state, word, why)
    if kind is EndKind.EXITED:
        kind = _REASONS.get(reason.partition(":")[0], kind)
    if kind is not EndKind.EXITED:
        return JobStatus(job, state, word, why, End(kind, why=why or word))
    number = int(code) if code.isdigit() else int(word == "EXIT")
    return JobStatus(job, state, word, why, end_by_code(number, why))
