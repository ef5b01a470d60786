"""Flux' `flux run`: https://flux-framework.readthedocs.io/projects/flux-core/en/latest/man1/flux-run.html."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Mapping
from typing import ClassVar

from mrun.engine.errors import LauncherError
from mrun.launchers.base import ONE_CORE, Allocation, Launcher, WorkerAllocation, visible_gpus
from mrun.launchers.flux_jobs import EXCEPTIONS, FluxScheduler
from mrun.launchers.resources import Needs, Prefix, Resources, flag
from mrun.launchers.schedulers import End, EndKind, Output, end_by_code

#: What `flux run` writes on stderr when something else than the script ended the job, or kept it from starting.
_EXCEPTION = re.compile(r"job\.exception \S+ type=(\S+) severity=0 ?([^\n]*)")
#: What it writes when the request itself was wrong.
_WRONG = re.compile(r"^flux[- ]run: (?:ERROR|error): ([^\n]*)", re.MULTILINE)


def words(asked: Resources) -> tuple[str, ...]:
    """`flux run -N N -n P [-c C] [-g G] [-t S.0s] [--exclusive]`; -g is per task."""
    return (
        *("flux", "run"),
        *flag("-N", asked.nodes),
        *flag("-n", asked.procs),
        *flag("-c", asked.cores_per_task),
        *flag("-g", asked.gpus_per_task),
        *flag("-t", f"{float(asked.walltime_s)}s" if asked.walltime_s else ""),
        *(("--exclusive",) if asked.is_exclusive else ()),
    )


PREFIX = Prefix(
    words,
    frozenset({"nodes", "procs", "cores_per_task", "gpus_per_task", "walltime_s", "is_exclusive"}),
    text_key="flux",
)


class FluxLauncher(Launcher):
    """Jobs of the Flux instance that this process is in."""

    name: ClassVar[str] = "flux"
    prefix = PREFIX
    scheduler = FluxScheduler()
    launches_workers: ClassVar[bool] = True
    broadcasts_stdin: ClassVar[bool] = True
    #: Twice cancels the job, also one that waits: TERM would leave that in the queue, and its client with it.
    stop_signals: ClassVar[tuple[int, ...]] = (signal.SIGINT, signal.SIGINT)

    def detect(self, environment: Mapping[str, str]) -> Allocation | None:
        """By FLUX_URI. Nodes and cores are not in the environment; the instance's processes are bound to theirs."""
        if not environment.get("FLUX_URI"):
            return None
        job = environment.get("FLUX_ENCLOSING_ID") or environment.get("FLUX_JOB_ID", "")
        return Allocation(launcher=self.name, job=job, gpus=visible_gpus(environment))

    def command(self, script_path: str, needs: Needs = ONE_CORE) -> tuple[str, ...]:
        """One task with all the cores. If `flux run` is killed, its job goes on."""
        if needs.nodes > 1:
            raise LauncherError(
                f"'flux run' can't start one script on {needs.nodes} nodes.",
                hint="Let the script run inside the worker's allocation, and start its processes with $(LAUNCHER).",
            )
        gpus = ("-g", str(needs.gpus)) if needs.gpus else ()
        return ("flux", "run", "-N", "1", "-n", "1", "-c", str(needs.cores), *gpus, script_path)

    def end_of(self, output: Output) -> End:
        """Exit code 1 may be the script's, or a refusal: stderr tells."""
        if output.code == 0:
            return end_by_code(0)
        if found := _EXCEPTION.search(output.err):
            kind = EXCEPTIONS.get(found[1])
            return End(kind, why=found[2] or found[1]) if kind else end_by_code(output.code, found[2])
        if output.code in (1, 2) and (found := _WRONG.search(output.err)):
            return End(EndKind.REFUSED, why=found[1])
        return end_by_code(output.code)

    def time_left_command(self, allocation: Allocation) -> tuple[str, ...]:
        """Of the job that this instance, or this process, is in."""
        return ("flux", "job", "timeleft")

    def read_time_left_s(self, output: Output) -> float | None:
        """Seconds; `infinity` for an instance without an end."""
        try:
            left_s = float(output.out) if output.code == 0 else math.inf
        except ValueError:
            return None
        return left_s if math.isfinite(left_s) else None

    def worker_command(self, worker: tuple[str, ...], nodes: int) -> tuple[str, ...]:
        """`flux exec` asks no scheduler: a worker that were a job would hold the cores that its steps wait for."""
        ranks = {0: (), 1: ("-r", "0")}.get(nodes, ("-r", f"0-{nodes - 1}"))
        return ("flux", "exec", *ranks, *worker)

    def allocate_command(self, wanted: WorkerAllocation) -> tuple[str, ...]:
        """An instance of its own, in which `flux exec` starts the workers."""
        return (
            *("flux", "alloc", f"--nodes={wanted.nodes}", "--exclusive"),
            *((f"--bank={wanted.account.bank}",) if wanted.account.bank else ()),
            *((f"--queue={wanted.account.queue}",) if wanted.account.queue else ()),
            *((f"--time-limit={float(wanted.walltime_s)}s",) if wanted.walltime_s else ()),
        )
