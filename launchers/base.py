"""What every launcher promises.

A launcher knows how one kind of machine starts commands on given resources: this machine itself, an allocation of
Slurm, an instance of Flux. All its methods are pure: they build words and read texts, start nothing, and look at
nothing but their arguments. The worker spawns the words of `command`; what has to be asked of a scheduler is asked by
`calls.py`, the only place in this room where a process is started.

Whoever adds a launcher derives from `Launcher`, and names the class in the entry-point group `mrun.launchers`, under
the name that a spec gives as `batch.type`.
"""

from __future__ import annotations

import abc
import signal
from collections.abc import Mapping
from typing import ClassVar

import msgspec

from mrun.engine.errors import LauncherError
from mrun.launchers.resources import Account, Needs, Prefix
from mrun.launchers.schedulers import End, Output, Scheduler, end_by_code

#: A script that says nothing about its resources.
ONE_CORE = Needs()


class Allocation(msgspec.Struct, frozen=True):
    """What a scheduler has given to the process that asks.

    Attributes:
        launcher: the name of the launcher that knows it.
        job: the scheduler's id of it.
        nodes: the names of its nodes; empty if the environment does not tell.
        cores: cores of this node in it; 0 if the environment does not tell.
        gpus: this node's GPUs in it, as CUDA_VISIBLE_DEVICES names them.
        ends_at_s: when it ends, seconds since the epoch; None if it does not, or the environment does not tell.
    """

    launcher: str
    job: str
    nodes: tuple[str, ...] = ()
    cores: int = 0
    gpus: tuple[str, ...] = ()
    ends_at_s: float | None = None


class WorkerAllocation(msgspec.Struct, frozen=True):
    """An allocation to be made for workers, one on each node."""

    nodes: int = 1
    account: Account = Account()
    walltime_s: float | None = None


class Launcher(abc.ABC):
    """How commands are started on one kind of machine.

    Files: a launcher makes none. The worker opens the sample's `.out` and `.err`, and a launcher's words must pass on
    to these what the script writes, and nothing else but the launcher's own complaints, on stderr.
    """

    #: The `batch.type` that means it.
    name: ClassVar[str]
    #: The words that stand for `$(LAUNCHER)`.
    prefix: ClassVar[Prefix]
    #: What asks the words of `command` to end the script, one after another with a moment between.
    stop_signals: ClassVar[tuple[int, ...]] = (signal.SIGTERM,)
    #: Who takes whole scripts as jobs; None: there is nobody.
    scheduler: Scheduler | None = None
    #: The workers of a spec with this type are started by `worker_command`. False: on this machine, because a worker
    #: that it had started could not start scripts by it.
    launches_workers: ClassVar[bool] = False
    #: The words of `worker_command` write to the stdin of every worker what they read themselves. By that, workers hear
    #: when they are to stop, and when the words have ended. False: the words are sent signals.
    broadcasts_stdin: ClassVar[bool] = False

    @abc.abstractmethod
    def detect(self, environment: Mapping[str, str]) -> Allocation | None:
        """The allocation that this environment was given by; None: it is not in one of this kind.

        Never raises: what the environment tells in words that nobody knows is left out.
        """

    @abc.abstractmethod
    def command(self, script_path: str, needs: Needs = ONE_CORE) -> tuple[str, ...]:
        """The words that run a script once, on one node of the allocation, on cores and GPUs of its own.

        The worker spawns them in a process group of their own, with the sample's directory as working directory. They
        end when the script has ended, with its exit code; 128 + n stands for signal n. On `stop_signals` they end the
        script.

        Raises:
            LauncherError: the script needs what can't be given to one script, such as several nodes; or this kind of
                machine starts no scripts.
        """

    def end_of(self, output: Output) -> End:
        """How the script ended that `command` ran.

        Args:
            output: the exit code of the words, and the end of what they wrote to stderr.
        """
        return end_by_code(output.code)

    def step_variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What scripts in this allocation get in addition, so that many `$(LAUNCHER)` can share it at a time."""
        return {}

    def probe(self) -> tuple[str, ...]:
        """The words that ask the scheduler for its version; (): it makes no difference."""
        return ()

    def probed(self, output: Output) -> Launcher:
        """This launcher, for the version that the scheduler told. An answer that can't be read changes nothing."""
        return self

    def time_left_command(self, allocation: Allocation) -> tuple[str, ...]:
        """The words that ask when an allocation ends whose environment does not tell; (): nobody knows."""
        return ()

    def read_time_left_s(self, output: Output) -> float | None:
        """Seconds until the allocation ends; None: it does not, or the answer can't be read."""
        return None

    def script_variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What scripts find of a worker's environment: all but what was set for the worker's own process alone."""
        return dict(environment)

    def worker_nodes(self, allocation: Allocation) -> int:
        """How many nodes of an allocation can have a worker; 0: the environment does not tell."""
        return len(allocation.nodes)

    def worker_command(self, worker: tuple[str, ...], nodes: int) -> tuple[str, ...]:
        """The words that start a worker on each of so many nodes, and leave the cores to the workers' scripts.

        They run until all workers have ended, with the highest of their exit codes, and pass on what workers write.
        If they are killed, so are the workers.

        Args:
            nodes: of the allocation in which the words are run; 0: all that it has.

        Raises:
            LauncherError: this kind of machine has one node, or the number has to be told.
        """
        raise LauncherError(f"The launcher '{self.name}' starts no workers on other nodes.", hint="Leave --nodes out.")

    def allocate_command(self, wanted: WorkerAllocation) -> tuple[str, ...]:
        """The words that stand before those of a worker, get an allocation, and start one on each node of it.

        Raises:
            LauncherError: this kind of machine has no such words.
        """
        raise LauncherError(
            f"There is no allocation of '{self.name}' here in which workers could be started.",
            hint="Run the command in a batch script, or with --nodes here to start workers on this machine.",
        )


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """GPUs that a scheduler lets this process see. -1 is Flux' word for none."""
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        if name in environment:
            seen = (word.strip() for word in environment[name].split(","))
            return tuple(word for word in seen if word and word not in ("-1", "NoDevFiles"))
    return ()


def whole(text: str) -> int:
    """A number that the environment tells; 0 if it is none."""
    return int(text) if text.isascii() and text.isdigit() else 0
