"""PBS has no launcher of its own: `mpiexec` of an MPI that knows PBS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mrun.engine.errors import LauncherError
from mrun.launchers.base import ONE_CORE, Allocation, Launcher, visible_gpus, whole
from mrun.launchers.pbs_jobs import PbsScheduler, read_jobs, seconds_of
from mrun.launchers.resources import Needs, Prefix, Resources
from mrun.launchers.schedulers import Output


def words(asked: Resources) -> tuple[str, ...]:
    """`mpiexec -n P`; what else a site wants is the step's own text."""
    return ("mpiexec", "-n", asked.procs or asked.nodes or "1")


PREFIX = Prefix(words, frozenset({"nodes", "procs"}), text_key="pbs")


class PbsLauncher(Launcher):
    """A job of PBS Pro or OpenPBS."""

    name: ClassVar[str] = "pbs"
    prefix = PREFIX
    scheduler = PbsScheduler()

    def detect(self, environment: Mapping[str, str]) -> Allocation | None:
        """By PBS_JOBID. The names of nodes are in a file, and not in the environment."""
        job = environment.get("PBS_JOBID", "")
        if not job:
            return None
        return Allocation(
            launcher=self.name,
            job=job,
            cores=whole(environment.get("NCPUS", "")) or whole(environment.get("PBS_NUM_PPN", "")),
            gpus=visible_gpus(environment),
        )

    def command(self, script_path: str, needs: Needs = ONE_CORE) -> tuple[str, ...]:
        """Always refused: nobody in a PBS job divides its cores."""
        raise LauncherError(
            "PBS can't start a script on cores of its own inside a job.",
            hint="Leave 'mode' out: the script then runs in the worker's allocation.",
        )

    def time_left_command(self, allocation: Allocation) -> tuple[str, ...]:
        """By qstat: the environment does not tell."""
        return ("qstat", "-f", "-F", "json", allocation.job)

    def read_time_left_s(self, output: Output) -> float | None:
        """What was asked for, less what was used."""
        for job in read_jobs(output).values():
            asked, used = job.Resource_List.get("walltime"), job.resources_used.get("walltime", "0")
            if asked is not None:
                return max(0.0, seconds_of(str(asked)) - seconds_of(str(used)))
        return None

    def worker_command(self, worker: tuple[str, ...], nodes: int) -> tuple[str, ...]:
        """One process a node, in the words of MPICH and its kin; a site with another MPI sets worker_launch."""
        if not nodes:
            raise LauncherError("PBS does not tell how many nodes the job has.", hint="Give --nodes a number.")
        return ("mpiexec", "-n", str(nodes), "-ppn", "1", *worker)
