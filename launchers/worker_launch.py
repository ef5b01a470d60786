"""How a worker is started where it is wanted: the words, from what a spec or a command says, and where that is run.

Pure. The settings are those of a spec's `batch` block, or of a worker's own; what they mean is that of Merlin, whose
specs have them: `launch_pre LAUNCH launch_args [flux start flux_start_opts] [flux exec] WORKER`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

import msgspec

from mrun.engine.errors import LauncherError, UsageError
from mrun.launchers.base import Allocation, Launcher, WorkerAllocation
from mrun.launchers.find import launcher_named
from mrun.launchers.resources import Account
from mrun.launchers.surroundings import Surroundings

#: Numbers of nodes that are words.
ALL, HERE = "all", "here"
#: What stands before the launch is a line of the shell if it holds one of these, or begins with a command that changes
#: the shell itself. Otherwise it is a program that starts the launch, such as `numactl`.
_SHELL = re.compile(r"[;&|<>`\n]|^\s*(?:export|module|ml|source|\.|ulimit|umask|unset|set|eval|cd)\s")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
#: Programs that write to the stdin of all that they start what they read themselves.
_BROADCASTING = ("srun",)


class WorkerLaunch(Account, frozen=True):
    """What is said of a worker's launch. Empty texts say nothing."""

    type: str = "local"
    #: A number, or `all`, or `here`: the worker itself, on this machine.
    nodes: str = ""
    #: The workers have to be on these nodes, whatever the type: a command says so.
    is_told: bool = False
    launch_pre: str = ""
    worker_launch: str = ""
    launch_args: str = ""
    walltime_s: float | None = None
    flux_path: str = ""
    flux_start_opts: str = ""
    flux_exec: str = ""
    has_flux_exec: bool = True


class Launched(msgspec.Struct, frozen=True):
    """The words to run.

    Attributes:
        is_here: they are those of the worker itself.
        broadcasts_stdin: what is written to their stdin, every worker reads.
        launcher: whose words they are: it can tell what their end means.
    """

    words: tuple[str, ...]
    is_here: bool = True
    broadcasts_stdin: bool = False
    launcher: str = "local"


def launched(
    asked: WorkerLaunch, environment: Mapping[str, str], around: Surroundings, worker: tuple[str, ...]
) -> Launched:
    """The words that start a worker, or one on each of several nodes.

    Args:
        environment: of the process that asks.
        around: where that process is.
        worker: the words of one worker.

    Raises:
        LauncherError: there is no allocation, or the type's launcher can't do it.
        UsageError: the allocation has fewer nodes.
    """
    kind = launcher_named(asked.type)
    if asked.nodes == HERE or not (asked.is_told or asked.worker_launch or kind.launches_workers):
        return Launched(worker)
    if asked.is_told and around.allocation is None:
        hint = "Run it in a batch script, in salloc or in flux alloc; without --nodes one worker starts here."
        raise LauncherError(f"'--nodes {asked.nodes}' needs an allocation, and here is none.", hint=hint)
    outer = around.launcher or kind
    launch = shlex.split(asked.worker_launch) if asked.worker_launch else _launch(asked, outer, around.allocation)
    flux = _flux_words(asked, launch, around.allocation) if kind.name == "flux" else []
    if not (launch or flux):
        return Launched(worker)
    own = shlex.split(asked.launch_args)
    words = [*launch, *own, *flux, *worker] if launch else [*flux, *own, *worker]
    is_broadcast = outer.broadcasts_stdin
    if around.allocation is None or asked.worker_launch:
        is_broadcast = any(word.rpartition("/")[2] in _BROADCASTING for word in launch)
    return Launched(_after(asked.launch_pre, words), False, is_broadcast, outer.name)


def _launch(asked: WorkerLaunch, outer: Launcher, allocation: Allocation | None) -> list[str]:
    """The words of the launcher in whose allocation this is; or those that get one."""
    if allocation is not None:
        if outer.name == "flux" and asked.type == "flux":
            # Only `flux exec` is needed, in the words of the spec.
            return []
        return list(outer.worker_command((), _count(asked, outer, allocation)))
    wanted = WorkerAllocation(
        nodes=int(asked.nodes) if asked.nodes.isdigit() else 1,
        account=asked,
        walltime_s=asked.walltime_s,
    )
    return list(outer.allocate_command(wanted))


def _count(asked: WorkerLaunch, outer: Launcher, allocation: Allocation) -> int:
    """How many nodes; 0: all, of a number that is not known."""
    there = outer.worker_nodes(allocation)
    if not asked.nodes.isdigit():
        return there
    if there and int(asked.nodes) > there:
        message = f"{asked.nodes} nodes are asked for, and the allocation {allocation.job} has {there} for workers."
        raise UsageError(message, hint=f"Ask for a larger one, or give --nodes {there}.")
    return int(asked.nodes)


def _flux_words(asked: WorkerLaunch, launch: list[str], allocation: Allocation | None) -> list[str]:
    """What starts an instance of Flux, unless there is one, and a worker on each of its nodes."""
    flux = f"{asked.flux_path.rstrip('/')}/flux" if asked.flux_path else "flux"
    is_within = allocation is not None and allocation.launcher == "flux"
    start = [] if is_within or any("flux" in word for word in launch) else [flux, "start"]
    options = shlex.split(asked.flux_start_opts) if start else []
    if not asked.has_flux_exec and not asked.is_told:
        return [*start, *options]
    if asked.flux_exec:
        return [*start, *options, *shlex.split(asked.flux_exec)]
    nodes = int(asked.nodes) if is_within and asked.nodes.isdigit() else 0
    ranks = launcher_named("flux").worker_command((), nodes)[1:]
    return [*start, *options, flux, *ranks]


def _after(before: str, words: list[str]) -> tuple[str, ...]:
    """The words, with what is to stand before them."""
    if not before.strip():
        return tuple(words)
    if _SHELL.search(before):
        # The shell becomes the launch: signals and exit codes are that one's.
        between = " " if before.rstrip().endswith((";", "&&")) else "\n"
        return ("/bin/sh", "-c", f"{before.rstrip()}{between}exec {shlex.join(words)}")
    first = shlex.split(before)
    return (*(["env"] if _ASSIGNMENT.match(first[0]) else []), *first, *words)
