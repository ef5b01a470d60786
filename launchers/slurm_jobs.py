"""Jobs of Slurm: `sbatch`, `squeue`, `sacct`, `scancel`.

States: https://slurm.schedmd.com/squeue.html#SECTION_JOB-STATE-CODES.
`squeue` tells of jobs that have ended, too, for MinJobAge (five minutes by default), with their exit status; after that
only `sacct` knows them, where there is accounting. `scontrol show job` reads the same memory as `squeue`, one job at a
time, and so adds nothing.
"""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Mapping, Sequence

from mrun.engine.logging import log
from mrun.launchers.resources import clock
from mrun.launchers.schedulers import End, EndKind, Job, JobState, JobStatus, Output, Query, end_by_code, refusal

#: Slurm's word → ours, and for ended jobs what ended them (EXITED: the exit status tells).
STATES: dict[str, tuple[JobState, EndKind | None]] = {
    **dict.fromkeys(("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"), (JobState.QUEUED, None)),
    **dict.fromkeys(("RESV_DEL_HOLD", "POWER_UP_NODE"), (JobState.QUEUED, None)),
    **dict.fromkeys(("CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "COMPLETING"), (JobState.RUNNING, None)),
    **dict.fromkeys(("RESIZING", "SIGNALING", "STAGE_OUT"), (JobState.RUNNING, None)),
    **dict.fromkeys(("COMPLETED", "FAILED"), (JobState.ENDED, EndKind.EXITED)),
    # Its exit status is 0:125, which is no signal: the kernel's killer used KILL.
    "OUT_OF_MEMORY": (JobState.ENDED, EndKind.SIGNALLED),
    **dict.fromkeys(("CANCELLED", "REVOKED"), (JobState.ENDED, EndKind.CANCELLED)),
    "PREEMPTED": (JobState.ENDED, EndKind.PREEMPTED),
    **dict.fromkeys(("TIMEOUT", "DEADLINE"), (JobState.ENDED, EndKind.TIMED_OUT)),
    **dict.fromkeys(
        ("NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL"), (JobState.ENDED, EndKind.NODE_FAILED)
    ),
}
#: What Slurm says when it may take the call later.
_PASSING = (
    *("unable to contact slurm controller", "socket timed out", "connection refused", "connection timed out"),
    *("zero bytes were transmitted", "temporarily unable to accept", "resource temporarily unavailable"),
    *("maxsubmit", "grpsubmit", "too many", "slurm_persist_conn", "slurmdbd is down"),
)
#: The rule that a job breaks, such as QOSMaxSubmitJobPerUserLimit, which passes, and AssocMaxWallDurationPerJobLimit,
#: which does not. Slurm's sentence after it is the same for all of them, and is all there is if it names no rule.
_RULE = re.compile(r"\b\w+Limit\b")
_BREAKS_A_RULE = "job submit limit"
#: An answer about jobs of which Slurm knows none.
_NONE_KNOWN = "invalid job id specified"
_SEPARATOR = "|"
#: Wide enough for every value: squeue cuts at a width.
_WIDTH = 200


def status_of(job: str, word: str, why: str, wait_status: int) -> JobStatus:
    """What one row says. A state of which mrun has not heard is unknown, with a warning."""
    # sacct adds who it was: `CANCELLED by 1000`.
    known = STATES.get(word.split(" ", 1)[0].rstrip("+"))
    if known is None:
        log.warning("job_state_unknown", job=job, state=word)
        return JobStatus(job, JobState.UNKNOWN, word, why)
    state, kind = known
    reason = word if why in ("", "None") else f"{word}: {why}"
    if kind is None:
        return JobStatus(job, state, word, why)
    if kind is not EndKind.EXITED:
        number = signal.SIGKILL if kind is EndKind.SIGNALLED else 0
        return JobStatus(job, state, word, why, End(kind, signal=number, why=reason))
    number = wait_status & 0x7F
    return JobStatus(job, state, word, why, end_by_code(-number if number else wait_status >> 8, reason))


class _Squeue(Query):
    """All that the controller remembers."""

    def command(self, jobs: Sequence[str]) -> tuple[str, ...]:
        columns = ",".join(f"{name}:{_WIDTH}" for name in ("JobID", "State", "Reason", "exit_code"))
        return ("squeue", "--noheader", "--states=all", f"--jobs={','.join(jobs)}", f"--Format={columns}")

    def read(self, output: Output) -> list[JobStatus]:
        if output.code != 0:
            if _NONE_KNOWN in output.err.lower():
                return []
            raise refusal("squeue", output, _PASSING)
        rows = ([line[i * _WIDTH : (i + 1) * _WIDTH].strip() for i in range(4)] for line in output.out.splitlines())
        return [status_of(job, word, why, _number(status)) for job, word, why, status in rows if job]


class _Sacct(Query):
    """All that accounting remembers."""

    def command(self, jobs: Sequence[str]) -> tuple[str, ...]:
        columns = "--format=JobIDRaw,State,Reason,ExitCode"
        return ("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(jobs)}", columns)

    def read(self, output: Output) -> list[JobStatus]:
        if output.code != 0:
            # Without accounting nobody knows: that is an answer.
            if "storage is disabled" in output.err.lower():
                return []
            raise refusal("sacct", output, _PASSING)
        rows = (line.split(_SEPARATOR) for line in output.out.splitlines() if line.count(_SEPARATOR) == 3)
        return [status_of(job, word, why, _wait_status(code)) for job, word, why, code in rows]


class SlurmScheduler:
    """Jobs by `sbatch`."""

    title, text_key = "Slurm", "slurm"
    held: tuple[str, ...] = ("--hold",)
    queries: tuple[Query, ...] = (_Squeue(), _Sacct())

    def submit_command(self, job: Job) -> tuple[str, ...]:
        """Slurm copies the script as it submits it, and would start it again after a node failed: --no-requeue."""
        needs = job.needs
        options = {
            "job-name": job.name,
            "chdir": job.directory,
            "output": _literal(job.out_path),
            "error": _literal(job.err_path),
            "nodes": str(needs.nodes),
            "ntasks": str(needs.procs),
            "cpus-per-task": str(needs.cores_per_task),
            "gpus": str(needs.gpus or ""),
            # Whole minutes: Slurm rounds up by itself, and warns of it.
            "time": clock(60 * math.ceil(needs.walltime_s / 60)) if needs.walltime_s else "",
            "account": job.account.bank,
            "partition": job.account.queue,
            "qos": job.account.qos,
            "reservation": job.account.reservation,
        }
        given = (f"--{name}={value}" for name, value in options.items() if value)
        exclusive = ("--exclusive",) if needs.is_exclusive else ()
        always = ("--parsable", "--no-requeue", "--open-mode=append")
        return ("sbatch", *always, *given, *exclusive, *job.extra, job.script_path, *job.arguments)

    def job_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Only which Slurm it is: `srun` in the job would take the numbers of the caller's allocation for its own."""
        kept = ("SLURM_CONF",)
        return {name: value for name, value in environment.items() if name in kept or not name.startswith("SLURM_")}

    def read_submitted(self, output: Output) -> str:
        """`12`, or `12;cluster` where there are several clusters. Lines of a site's plugins may come before it."""
        found = re.search(r"^(\d+)(;\S+)?$", output.out, re.MULTILINE)
        if output.code != 0 or found is None:
            is_unnamed = _RULE.search(output.err) is None
            raise refusal("sbatch", output, (*_PASSING, _BREAKS_A_RULE) if is_unnamed else _PASSING)
        return found[1]

    def find_command(self, name: str) -> tuple[str, ...]:
        """By squeue. Accounting would have to be told since when, and to be there."""
        return ("squeue", "--noheader", "--me", "--states=all", f"--name={name}", f"--Format=JobID:{_WIDTH}")

    def read_found(self, output: Output, name: str) -> list[str]:
        """Ids grow."""
        if output.code != 0:
            raise refusal("squeue", output, _PASSING)
        return sorted(output.out.split(), key=int)

    def cancel_command(self, jobs: Sequence[str]) -> tuple[str, ...]:
        """--quiet: of jobs that have ended, or are not known, nothing is said."""
        return ("scancel", "--quiet", *jobs)

    def read_cancelled(self, output: Output) -> None:
        """An id that Slurm has forgotten has ended."""
        if output.code != 0 and _NONE_KNOWN not in output.err.lower():
            raise refusal("scancel", output, _PASSING)


def _literal(path: str) -> str:
    """sbatch puts values in for `%`: two of them stand for one."""
    return path.replace("%", "%%")


def _number(text: str) -> int:
    return int(text) if text.lstrip("-").isdigit() else 0


def _wait_status(text: str) -> int:
    """sacct's `code:signal` as the kernel has it."""
    code, _, number = text.partition(":")
    return (_number(code) << 8) | (_number(number) & 0x7F)
