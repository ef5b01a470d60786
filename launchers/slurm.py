"""Slurm's allocations and `srun`: https://slurm.schedmd.com/srun.html.

What srun did was observed on Slurm 22.05; versions of options are those of its release notes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from mrun.engine.errors import LauncherError
from mrun.launchers.base import ONE_CORE, Allocation, Launcher, WorkerAllocation, visible_gpus, whole
from mrun.launchers.lists import expand_counts, expand_hosts
from mrun.launchers.resources import Needs, Prefix, Resources, clock, flag
from mrun.launchers.schedulers import End, EndKind, Output, end_by_code
from mrun.launchers.slurm_jobs import SlurmScheduler

#: The first version in which steps share nothing without --overlap, and take only what they ask for with --exact.
#: Before it, --exclusive of a step meant both.
_EXACT_SINCE = (20, 11)
_VERSION = re.compile(r"\b(\d+)\.(\d+)")
#: `1-02:03:04`, `02:03:04`, `03:04`: squeue's time left.
_TIME_LEFT = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")

#: `sbatch --export=NONE` asks every srun of the job to leave out the environment, and with it what mrun tells in it.
_ENVIRONMENT = ("--export=ALL",)
#: What srun sets for a step, and another srun in that step takes for options.
_OF_STEP = re.compile(
    r"SLURM_(CPU_BIND|MEM_BIND|GPU_BIND)(_\w+)?|SLURM_(NTASKS|NPROCS|NTASKS_PER_NODE|DISTRIBUTION|OVERLAP)"
    r"|SLURM_STEP_?\w+|SLURM_(PROCID|LOCALID|TASK_PID|GTIDS)"
)

#: What srun writes when a node of a step is gone. In a job that was started with --no-kill its exit code is 0 then.
_NODE_GONE = re.compile(r"^srun: error: Node failure on \S+$", re.MULTILINE)
#: What srun and its daemons write on stderr when something else than the script ended a step; the first found counts.
_ENDS = (
    (re.compile(r"DUE TO NODE FAILURE", re.IGNORECASE), EndKind.NODE_FAILED),
    (re.compile(r"DUE TO TIME LIMIT", re.IGNORECASE), EndKind.TIMED_OUT),
    (re.compile(r"\*\*\* STEP \S+ ON \S+ CANCELLED AT \S+ \*\*\*"), EndKind.CANCELLED),
    (
        re.compile(r"error: (?:Unable to (?:create step|allocate resources)|Job submit/allocate failed)[^\n]*"),
        EndKind.REFUSED,
    ),
    (re.compile(r"^s(?:run|alloc): fatal: [^\n]*", re.MULTILINE), EndKind.REFUSED),
)


def words(asked: Resources) -> tuple[str, ...]:
    """`srun -N N -n P [-c C] [--gpus-per-task G] [--gpus N] [-t HH:MM:SS] [--exclusive]`."""
    return (
        "srun",
        *flag("-N", asked.nodes),
        *flag("-n", asked.procs),
        *flag("-c", asked.cores_per_task),
        *flag("--gpus-per-task", asked.gpus_per_task),
        *flag("--gpus", asked.gpus),
        *flag("-t", clock(asked.walltime_s) if asked.walltime_s else ""),
        *(("--exclusive",) if asked.is_exclusive else ()),
    )


PREFIX = Prefix(
    words,
    frozenset({"nodes", "procs", "cores_per_task", "gpus_per_task", "gpus", "walltime_s", "is_exclusive"}),
    text_key="slurm",
)


class SlurmLauncher(Launcher):
    """Steps of a Slurm allocation."""

    name: ClassVar[str] = "slurm"
    prefix = PREFIX
    scheduler = SlurmScheduler()
    launches_workers: ClassVar[bool] = True
    broadcasts_stdin: ClassVar[bool] = True

    def __init__(self, version: tuple[int, int] = _EXACT_SINCE) -> None:
        self._version = version

    def detect(self, environment: Mapping[str, str]) -> Allocation | None:
        """By SLURM_JOB_ID. The end is in the environment of newer versions only (not yet of 22.05)."""
        job = environment.get("SLURM_JOB_ID", "")
        if not job:
            return None
        counts = expand_counts(environment.get("SLURM_JOB_CPUS_PER_NODE", ""))
        node = whole(environment.get("SLURM_NODEID", "0"))
        end = whole(environment.get("SLURM_JOB_END_TIME", ""))
        return Allocation(
            launcher=self.name,
            job=job,
            nodes=expand_hosts(environment.get("SLURM_JOB_NODELIST", "")),
            cores=whole(environment.get("SLURM_CPUS_ON_NODE", "")) or (counts[node] if node < len(counts) else 0),
            gpus=visible_gpus(environment),
            ends_at_s=float(end) if end else None,
        )

    def command(self, script_path: str, needs: Needs = ONE_CORE) -> tuple[str, ...]:
        """One task with all the cores: a script is run once, whatever it starts itself.

        Without a time limit: Slurm's are whole minutes, and the worker keeps the step's own. --quiet leaves out the
        lines of a step that waits for cores; errors are shown all the same.
        """
        if needs.nodes > 1:
            raise LauncherError(
                f"'srun' can't start one script on {needs.nodes} nodes.",
                hint="Let the script run inside the worker's allocation, and start its processes with $(LAUNCHER).",
            )
        return (
            *("srun", "--quiet", *_ENVIRONMENT, "--nodes=1", "--ntasks=1", f"--cpus-per-task={needs.cores}"),
            *((f"--gpus={needs.gpus}",) if needs.gpus else ()),
            *(("--exact",) if self._version >= _EXACT_SINCE else ("--exclusive",)),
            script_path,
        )

    def end_of(self, output: Output) -> End:
        """srun's exit code is the script's, and 128 + n for signal n; stderr tells what Slurm itself has ended.

        What the script wrote itself is on that stderr, too; so it counts only if srun failed. But for one line, because
        srun does not fail with its node.
        """
        if found := _NODE_GONE.search(output.err):
            return End(EndKind.NODE_FAILED, why=found[0])
        if output.code != 0:
            for pattern, kind in _ENDS:
                if found := pattern.search(output.err):
                    return End(kind, why=found[0])
        return end_by_code(output.code)

    def step_variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What srun reads where its words say nothing, so that `srun -n 1` takes one core, and not a node's all.

        A step would also take all memory that the job was given by node, and the next one wait for it: 0 stands for
        the memory that is there, without counting. Memory given by core is split by Slurm.
        """
        if "SLURM_JOB_ID" not in environment:
            return {}
        share = {"SLURM_EXACT": "1"} if self._version >= _EXACT_SINCE else {"SLURM_EXCLUSIVE": "1"}
        return share if "SLURM_MEM_PER_CPU" in environment else share | {"SLURM_MEM_PER_NODE": "0"}

    def probe(self) -> tuple[str, ...]:
        """`srun --version`, which asks no daemon."""
        return ("srun", "--version")

    def probed(self, output: Output) -> SlurmLauncher:
        """Reads `slurm 23.11.4` and `slurm-wlm 22.05.8`."""
        found = _VERSION.search(output.out)
        return SlurmLauncher((int(found[1]), int(found[2]))) if found else self

    def time_left_command(self, allocation: Allocation) -> tuple[str, ...]:
        """The time that is left, and not the end, which squeue gives in the local time of who knows which host."""
        return ("squeue", "--noheader", f"--jobs={allocation.job}", "--format=%L")

    def read_time_left_s(self, output: Output) -> float | None:
        """`1-02:03:04`; UNLIMITED, INVALID and NOT_SET are no times."""
        found = _TIME_LEFT.fullmatch(output.out.strip()) if output.code == 0 else None
        if found is None:
            return None
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return float(86_400 * days + 3600 * hours + 60 * minutes + seconds)

    def script_variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Without what srun has set for the worker, and would read again for `$(LAUNCHER)`: no binding to cores, …"""
        if "SLURM_STEP_ID" not in environment:
            return dict(environment)
        return {name: value for name, value in environment.items() if not _OF_STEP.fullmatch(name)}

    def worker_command(self, worker: tuple[str, ...], nodes: int) -> tuple[str, ...]:
        """One task a node, that shares all cores, GPUs and memory with the steps, and is bound to no core."""
        if not nodes:
            raise LauncherError("Slurm does not tell how many nodes the allocation has.", hint="Give --nodes a number.")
        share = ("--overlap",) if self._version >= _EXACT_SINCE else ()
        counts = (f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1")
        return ("srun", *counts, *share, "--mem=0", "--cpu-bind=none", *_ENVIRONMENT, *worker)

    def allocate_command(self, wanted: WorkerAllocation) -> tuple[str, ...]:
        """Of whole nodes, because a worker takes all that is there."""
        return (
            *("salloc", f"--nodes={wanted.nodes}", "--exclusive", "--mem=0"),
            *((f"--account={wanted.account.bank}",) if wanted.account.bank else ()),
            *((f"--partition={wanted.account.queue}",) if wanted.account.queue else ()),
            *((f"--qos={wanted.account.qos}",) if wanted.account.qos else ()),
            *((f"--reservation={wanted.account.reservation}",) if wanted.account.reservation else ()),
            *((f"--time={clock(wanted.walltime_s)}",) if wanted.walltime_s else ()),
            *self.worker_command((), wanted.nodes),
        )
