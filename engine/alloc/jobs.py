"""The job that an allocation submits: its script, and what the scheduler is told."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import msgspec

from mrun.engine.errors import WorkspaceError
from mrun.engine.store.allocs import AllocTerms
from mrun.launchers.resources import Account, Needs
from mrun.launchers.schedulers import Job

#: So much of what a job printed is shown when it failed.
_TAIL_CHARACTERS = 500
#: Where a job that asks for nodes gets parts of them, if it does not say that it wants the whole.
_SHARES_NODES = ("slurm", "flux")


class JobPlace(msgspec.Struct, frozen=True):
    """Where the jobs of this process go.

    Attributes:
        jobs_dir: their scripts and outputs, in a directory for each allocation. Nodes must see it.
        working_dir: where they begin.
        namespace: of the server's keys.
        variables: what they get besides this process's own.
    """

    jobs_dir: Path
    working_dir: Path
    namespace: str
    variables: dict[str, str]

    def path(self, terms: AllocTerms, number: int, suffix: str) -> Path:
        """A file of a job: script (sh), out, or err."""
        return self.jobs_dir / f"{terms.name}-{terms.mark}" / f"{number}.{suffix}"


def worker_words(terms: AllocTerms, namespace: str, number: int) -> tuple[str, ...]:
    """The words that work in a job, on all its nodes. Nothing in them is secret."""
    words = ["-m", "mrun", "--namespace", namespace, "work", "--queues", ",".join(terms.queues)]
    words += ["--name", terms.job_name(number), "--idle-exit", f"{terms.idle_exit_s:g}"]
    # PBS does not tell how many nodes a job has.
    words += ["--nodes", "all" if terms.kind != "pbs" else str(terms.nodes)] if terms.nodes > 1 else []
    words += ["--slots", str(terms.slots)] if terms.slots else []
    words += ["--resources", terms.resources] if terms.resources else []
    # Of this very Python: the PATH of a batch job is anybody's guess.
    return (sys.executable, *words)


def script_text(terms: AllocTerms, namespace: str, number: int) -> str:
    """The script of a job."""
    return f"#!/bin/sh\nexec {shlex.join(worker_words(terms, namespace, number))}\n"


def write_job(terms: AllocTerms, place: JobPlace, number: int) -> Job:
    """Write the script, and say what is to be submitted.

    Raises:
        WorkspaceError: the script can't be written.
    """
    path = place.path(terms, number, "sh")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(script_text(terms, place.namespace, number))
        path.chmod(0o700)
    except OSError as error:
        hint = "Scripts of jobs are kept in the state directory (XDG_STATE_HOME), which their nodes must see."
        raise WorkspaceError(f"'{path}' can't be written: {error.strerror}.", hint=hint) from error
    return Job(
        script_path=str(path),
        directory=str(place.working_dir),
        out_path=str(place.path(terms, number, "out")),
        err_path=str(place.path(terms, number, "err")),
        name=terms.job_name(number),
        needs=needs_of(terms),
        account=Account(bank=terms.bank, queue=terms.partition, qos=terms.qos, reservation=terms.reservation),
        extra=terms.extra,
    )


def needs_of(terms: AllocTerms) -> Needs:
    """What a job needs: a process on each node; without a number of cores, whole nodes."""
    return Needs(
        nodes=terms.nodes,
        procs=terms.nodes,
        cores_per_task=max(1, terms.cores),
        gpus=terms.nodes * terms.gpus,
        walltime_s=terms.walltime_s,
        is_exclusive=not terms.cores and terms.kind in _SHARES_NODES,
    )


def printed_tail(terms: AllocTerms, place: JobPlace, number: int) -> str:
    """The end of what a job printed; empty if there is nothing, or this host does not see it."""
    for suffix in ("err", "out"):
        try:
            text = place.path(terms, number, suffix).read_text(errors="replace").strip()
        except OSError:
            continue
        if text:
            return text[-_TAIL_CHARACTERS:]
    return ""
