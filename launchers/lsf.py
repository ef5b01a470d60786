"""LSF's `jsrun`: https://www.ibm.com/docs/en/spectrum-lsf/10.1.0?topic=jsm-jsrun."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from mrun.engine.errors import LauncherError
from mrun.launchers import slurm
from mrun.launchers.base import ONE_CORE, Allocation, Launcher, visible_gpus, whole
from mrun.launchers.lsf_jobs import LsfScheduler
from mrun.launchers.resources import Needs, Prefix, Resources, flag
from mrun.launchers.schedulers import Output

#: `0:35 L`: hours and minutes; the letter says how LSF knows.
_TIME_LEFT = re.compile(r"(\d+):(\d+)")


def words(asked: Resources) -> tuple[str, ...]:
    """`jsrun --np P --nrs R -b <bind or rs> -d <distribution or plane:P/N> -X 1 [-g G] [-c C]`."""
    nodes, procs = asked.nodes or "1", asked.procs or asked.nodes or "1"
    return (
        "jsrun",
        *("--np", procs),
        *("--nrs", asked.resource_sets or nodes),
        *("-b", asked.bind or "rs"),
        *("-d", asked.distribution or f"plane:{_share(procs, nodes)}"),
        *("-X", asked.exit_on_error or "1"),
        *flag("-g", asked.gpus_per_task or asked.gpus),
        *flag("-c", asked.cores_per_task),
    )


def _share(procs: str, nodes: str) -> str:
    """Processes for each node; where the shell knows the numbers, it divides."""
    if procs.isdigit() and nodes.isdigit():
        return str(max(1, int(procs) // int(nodes)))
    return f"$(({procs} / {nodes}))"


PREFIX = Prefix(
    words,
    frozenset(
        {"nodes", "procs", "cores_per_task", "gpus_per_task", "gpus", "bind", "distribution", "resource_sets"}
        | {"exit_on_error"}
    ),
    text_key="lsf",
)


class LsfLauncher(Launcher):
    """Resource sets of an LSF job."""

    name: ClassVar[str] = "lsf"
    prefix = PREFIX
    scheduler = LsfScheduler()

    def detect(self, environment: Mapping[str, str]) -> Allocation | None:
        """By LSB_JOBID. LSB_MCPU_HOSTS is `host cores host cores …`."""
        job = environment.get("LSB_JOBID", "")
        if not job:
            return None
        listed = environment.get("LSB_MCPU_HOSTS", "").split()
        cores = dict(zip(listed[::2], map(whole, listed[1::2]), strict=False))
        here = environment.get("HOSTNAME", "") if len(cores) > 1 else next(iter(cores), "")
        return Allocation(
            launcher=self.name, job=job, nodes=tuple(cores), cores=cores.get(here, 0), gpus=visible_gpus(environment)
        )

    def command(self, script_path: str, needs: Needs = ONE_CORE) -> tuple[str, ...]:
        """One resource set with all the cores, and one task in it."""
        if needs.nodes > 1:
            raise LauncherError(
                f"'jsrun' can't start one script on {needs.nodes} nodes.",
                hint="Let the script run inside the worker's allocation, and start its processes with $(LAUNCHER).",
            )
        gpus = ("--gpu_per_rs", str(needs.gpus)) if needs.gpus else ()
        one = ("--nrs", "1", "--tasks_per_rs", "1", "--cpu_per_rs", str(needs.cores))
        return ("jsrun", *one, *gpus, "--bind", "none", script_path)

    def time_left_command(self, allocation: Allocation) -> tuple[str, ...]:
        """By bjobs: the environment does not tell."""
        return ("bjobs", "-noheader", "-o", "time_left", allocation.job)

    def read_time_left_s(self, output: Output) -> float | None:
        """Whole minutes; `-` for a job without an end."""
        found = _TIME_LEFT.match(output.out.strip()) if output.code == 0 else None
        return 3600.0 * int(found[1]) + 60 * int(found[2]) if found else None

    def worker_nodes(self, allocation: Allocation) -> int:
        """All but the first, where the batch script runs."""
        return max(1, len(allocation.nodes) - 1) if allocation.nodes else 0

    def worker_command(self, worker: tuple[str, ...], nodes: int) -> tuple[str, ...]:
        """A resource set for each node, with all of it. A worker in one can't start another jsrun."""
        _check_told(nodes)
        one = ("--rs_per_host", "1", "--tasks_per_rs", "1", "--cpu_per_rs", "ALL_CPUS", "--gpu_per_rs", "ALL_GPUS")
        return ("jsrun", "--nrs", str(nodes), *one, "--bind", "none", *worker)


class LsfSrunLauncher(LsfLauncher):
    """LSF on machines where `srun` starts processes."""

    name: ClassVar[str] = "lsf-srun"
    prefix = slurm.PREFIX

    def command(self, script_path: str, needs: Needs = ONE_CORE) -> tuple[str, ...]:
        """By srun, without options that only Slurm's own allocations know."""
        if needs.nodes > 1:
            raise LauncherError(f"'srun' can't start one script on {needs.nodes} nodes.", hint="Use $(LAUNCHER) in it.")
        gpus = (f"--gpus={needs.gpus}",) if needs.gpus else ()
        return ("srun", "--nodes=1", "--ntasks=1", f"--cpus-per-task={needs.cores}", *gpus, script_path)

    def worker_command(self, worker: tuple[str, ...], nodes: int) -> tuple[str, ...]:
        """One task a node."""
        _check_told(nodes)
        return ("srun", f"--nodes={nodes}", f"--ntasks={nodes}", *worker)


def _check_told(nodes: int) -> None:
    if not nodes:
        raise LauncherError("LSF does not tell how many nodes the job has.", hint="Give --nodes a number.")
