"""What is said of a new allocation: options → terms."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec

from mrun.cli.durations import as_duration_s
from mrun.cli.options import grouped
from mrun.cli.selectors import parse_names
from mrun.engine.errors import LauncherError, UsageError
from mrun.engine.nearest import nearest_hint
from mrun.engine.resources import read_resources
from mrun.engine.store.allocs import AllocTerms
from mrun.engine.store.connect import Broker
from mrun.engine.workers.request import written_s
from mrun.launchers.find import launcher_named, names
from mrun.launchers.job_calls import JobCalls
from mrun.launchers.schedulers import Scheduler

#: Names stand in names of jobs, of files and of keys.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}", re.ASCII)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]", re.ASCII)
_JOBS_MOST, _NODES_MOST = 1000, 100_000
#: Who takes jobs, of those that come with mrun.
_KINDS = ("slurm", "flux", "lsf", "pbs")
#: Slurm and LSF know no shorter job.
_LEAST_WALLTIME_S = 60.0
#: Addresses under which another node finds itself.
_OWN_HOSTS = ("localhost", "::1")


class AllocWords(msgspec.Struct, frozen=True):
    """The values of `terms_options`."""

    kind: str
    extra: tuple[str, ...]
    queues: str
    walltime_s: float
    nodes: int
    cores: int
    gpus: int
    slots: int
    resources: str
    max_jobs: int
    min_backlog: int
    idle_exit_s: float
    name: str
    bank: str
    partition: str
    qos: str
    reservation: str
    is_untried: bool = False


#: What says what an allocation is.
terms_options = grouped(
    click.argument("kind", metavar="slurm|flux|lsf|pbs"),
    click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="[-- WORDS…]"),
    click.option("--queues", required=True, metavar="Q1,Q2", help="Queues (task_queue of steps) to work on."),
    click.option("--walltime", "--time-limit", "walltime_s", required=True, callback=as_duration_s, metavar="TIME",
                 help="Walltime of each job, such as 2h or 1:30:00."),
    click.option("--nodes", type=click.IntRange(1, _NODES_MOST), default=1, show_default=True,
                 help="Nodes of each job, with a worker on each of them."),
    click.option("--cores", type=click.IntRange(0, 4096), default=0, help="Cores of each node. [default: all]"),
    click.option("--gpus", type=click.IntRange(0, 4096), default=0, show_default=True, help="GPUs of each node."),
    click.option("--slots", type=click.IntRange(0, 4096), default=0,
                 help="Scripts to run at once on each node. [default: its cores]"),
    click.option("--resources", metavar="NAME=N,…", default="", help="What each node's worker has, as for mrun work."),
    click.option("--max-jobs", type=click.IntRange(1, _JOBS_MOST), default=4, show_default=True,
                 help="How many jobs may wait or run at a time."),
    click.option("--min-backlog", type=click.IntRange(1), default=1, show_default=True,
                 help="How many samples must wait before one more job is submitted."),
    click.option("--idle-exit", "idle_exit_s", callback=as_duration_s, default="5m", show_default=True,
                 metavar="TIME", help="How long workers stay, and jobs wait, while there is no work."),
    click.option("--name", default="", metavar="NAME", help="What to call it. [default: as the first queue]"),
    click.option("--bank", default="", metavar="NAME", help="Account (Slurm, PBS), bank (Flux), group (LSF)."),
    click.option("--partition", default="", metavar="NAME", help="Partition (Slurm) or the scheduler's queue."),
    click.option("--qos", default="", metavar="NAME", help="Quality of service (Slurm)."),
    click.option("--reservation", default="", metavar="NAME", help="Reservation (Slurm, LSF)."),
)  # fmt: skip


def terms_of(given: Mapping[str, Any], taken: Collection[str] = ()) -> AllocTerms:
    """The terms of a new allocation.

    Args:
        given: the values of `terms_options`.
        taken: names that there are.

    Raises:
        UsageError: the words do not fit together, or nobody of that kind takes jobs.
        LauncherError: a third party's scheduler can't be used.
    """
    terms = AllocTerms(**{**given, "queues": parse_names(given["queues"]), "mark": secrets.token_hex(2)})
    if terms.kind not in names() or launcher_named(terms.kind).scheduler is None:
        raise UsageError(f"'{terms.kind}' takes no jobs.", hint=nearest_hint(terms.kind, _KINDS))
    if not terms.queues:
        raise UsageError("--queues names no queue.", hint="For example: --queues sim,train")
    if terms.kind == "pbs" and not terms.cores:
        raise UsageError("PBS gives as many cores as are asked for, and none were.", hint="Add --cores 32, or so.")
    if terms.walltime_s < _LEAST_WALLTIME_S:
        seconds = written_s(terms.walltime_s)
        message = f"A walltime of {seconds} s is too short: schedulers count minutes."
        raise UsageError(message, hint=f"A number alone is seconds; {seconds} minutes are --walltime {seconds}m.")
    if terms.resources:
        try:
            read_resources(terms.resources)
        except ValueError as error:
            hint = "Write cpus=32,gpus=4,licenses/foo=2."
            raise UsageError(f"--resources '{terms.resources}': {error}.", hint=hint) from error
    return msgspec.structs.replace(terms, name=_name(terms.name, terms.queues[0], taken))


def _name(asked: str, queue: str, taken: Collection[str]) -> str:
    if not asked:
        stem = _NOT_IN_NAMES.sub("_", queue).lstrip("_.-")[:24] or "alloc"
        free = (f"{stem}-{number}" if number > 1 else stem for number in range(1, 10_000))
        return next(name for name in free if name not in taken)
    if not _NAME.fullmatch(asked):
        hint = "Letters, digits and -_. make a name, at most 32 of them."
        raise UsageError(f"An allocation can't be called '{asked}'.", hint=hint)
    if asked in taken:
        raise UsageError(f"There is an allocation '{asked}'.", hint=f"`mrun alloc remove {asked}`, or another --name.")
    return asked


def scheduler_of(kind: str) -> Scheduler:
    """The scheduler that takes jobs of that kind. LauncherError if there is none."""
    scheduler = launcher_named(kind).scheduler
    if scheduler is None:
        raise LauncherError(f"'{kind}' takes no jobs.", hint="slurm, flux, lsf and pbs do.")
    return scheduler


def desk_of(kind: str) -> JobCalls:
    """The same, to be asked."""
    environment = {name: value for name, value in os.environ.items() if name != "MRUN_PARENT"}
    return JobCalls(scheduler_of(kind), environment)


def reach_warnings(broker: Broker) -> list[str]:
    """What is to be said of a server that other nodes can't reach."""
    host = urlsplit(broker.url).hostname or ""
    if not (broker.url.startswith("unix:") or host in _OWN_HOSTS or host.startswith("127.")):
        return []
    return [
        f"Jobs on other hosts will not reach the server: {broker.url} is an address on this one. `mrun server start "
        "--listen HOST` serves them, too."
    ]
