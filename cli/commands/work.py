"""`mrun work`: a worker."""

from __future__ import annotations

import functools
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import anyio
import click
import structlog

from mrun import __version__
from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.logs import set_up_logging
from mrun.cli.output import our_error
from mrun.engine.enqueue import Order, queues_of
from mrun.engine.errors import ExitCode, MrunError, UsageError
from mrun.engine.ids import new_worker_id
from mrun.engine.records import WorkerFacts
from mrun.engine.settings import Settings
from mrun.engine.store.bells import Bells
from mrun.engine.store.connect import Broker, check_server, open_broker
from mrun.engine.store.seal import load_seal
from mrun.engine.store.store import Store
from mrun.engine.work.desk import Desk, WorkerOptions
from mrun.engine.work.guard import GuardLink, run_guarded
from mrun.engine.work.worker import Worker
from mrun.launchers.local import LocalLauncher

#: A worker tries to reach a server that is away until it is told to stop.
_FOR_EVER_S = float("inf")

log = structlog.get_logger()


@click.command("work")
@click.argument("spec", required=False, type=click.Path())
@click.option("--queues", metavar="Q1,Q2", help="Queues (task_queue of steps) to take samples from. [default: SPEC's]")
@click.option("--slots", type=click.IntRange(1, 4096), help="Scripts to run at once. [default: cores]")
@click.option(
    "--lease",
    "lease_s",
    metavar="SECONDS",
    help="How long this worker may be silent before others take over what it ran. [default: 30]",
)
@click.option(
    "--exit-when-done", "is_exit_when_done", is_flag=True, help="Exit when all studies on the queues have ended."
)
@click.option("--study", metavar="ID", default="", help="Only this study, and those that its steps queue.")
@click.option("--walltime", "walltime_s", type=float, metavar="SECONDS", help="End of this allocation, from now.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Least important events to log.",
)
@takes_invocation
def command(
    invocation: Invocation,
    spec: str | None,
    queues: str | None,
    slots: int | None,
    lease_s: str | None,
    is_exit_when_done: bool,
    study: str,
    walltime_s: float | None,
    log_level: str,
) -> None:
    """Run samples from queues until told to stop.

    Start as many workers as you like, wherever the server can be reached. The first Ctrl-C or SIGTERM lets running
    samples finish and hands the rest back; the second ends them and hands them back, too. Nothing is lost if a worker
    is killed: others take over when its lease ends.

    \b
    Examples:
      $ mrun work --queues sim,train
      $ mrun work spec.yaml --slots 16
      $ mrun work --queues sim --exit-when-done
    """
    settings = invocation.settings(lease_s=lease_s)
    broker = invocation.broker(settings, may_start=True)
    options = WorkerOptions(
        queues=_queues(spec, queues),
        slots=slots or settings.slots or len(os.sched_getaffinity(0)),
        lease_s=settings.lease_s,
        root_study=study,
        is_exit_when_done=is_exit_when_done,
        environment=step_environment(os.environ, settings, broker),
        ends_at_s=_allocation_end_s(os.environ, walltime_s),
    )
    parent = os.environ.get("MRUN_PARENT", "")
    if parent.isdigit() and os.getppid() != int(parent):
        # `mrun run` was killed while this process started: from here on the guard is told when it dies.
        sys.exit(ExitCode.TERMINATED)
    engine = functools.partial(_run_engine, invocation, settings, broker, options, log_level)
    code = run_guarded(engine, ends_with_parent="MRUN_PARENT" in os.environ)
    sys.exit(code)


def _queues(spec: str | None, queues: str | None) -> tuple[str, ...]:
    names = [name.strip() for name in (queues or "").split(",") if name.strip()]
    if queues is not None and not names:
        raise UsageError("--queues names no queue.", hint="For example: mrun work --queues sim,train")
    if names:
        return tuple(dict.fromkeys(names))
    if spec is None:
        raise UsageError(
            "Which queues? Neither --queues nor a spec was given.", hint="For example: mrun work --queues sim,train"
        )
    return queues_of(Order(spec), os.environ, str(Path.cwd()))


def _allocation_end_s(environment: Mapping[str, str], walltime_s: float | None) -> float | None:
    """When this allocation ends: by option, else as Slurm tells it."""
    if walltime_s is not None:
        return time.time() + walltime_s
    end = environment.get("SLURM_JOB_END_TIME", "")
    return float(end) if end.isdigit() else None


def step_environment(environment: Mapping[str, str], settings: Settings, broker: Broker) -> dict[str, str]:
    """What steps get: the worker's variables, and what a nested `mrun queue` needs to reach the same server.

    The directory of this Python stands at the end of PATH: `mrun` is found where nothing else of that name is, and no
    program of the user's is hidden. `MRUN_PYTHON` is this Python.
    """
    own = {"MRUN_NAMESPACE": settings.namespace, "MRUN_PYTHON": sys.executable}
    if settings.broker is not None or broker.is_own:
        own["MRUN_BROKER"] = broker.url
    path = [*environment.get("PATH", os.defpath).split(os.pathsep), str(Path(sys.executable).parent)]
    inherited = {name: value for name, value in environment.items() if name != "MRUN_PARENT"}
    return inherited | own | {"PATH": os.pathsep.join(dict.fromkeys(path))}


def _run_engine(
    invocation: Invocation, settings: Settings, broker: Broker, options: WorkerOptions, log_level: str, link: GuardLink
) -> int:
    """The engine's process: everything here runs below the guard."""
    set_up_logging(log_level)
    try:
        anyio.run(_work, settings, broker, options, link)
    except (MrunError, BaseExceptionGroup) as error:
        ours = our_error(error)
        if ours is None:
            raise
        invocation.output.error(ours)
        return int(ours.exit_code)
    return int(ExitCode.DONE)


async def _work(settings: Settings, broker: Broker, options: WorkerOptions, link: GuardLink) -> None:
    host = socket.gethostname()
    worker_id = new_worker_id(host)
    facts = WorkerFacts(
        host=host,
        pid=os.getpid(),
        queues=options.queues,
        slots=options.slots,
        ends_at_ms=round(1000 * (options.ends_at_s or 0)),
        version=__version__,
    )
    client, bell_client = await open_broker(broker), await open_broker(broker, is_blocking=True)
    try:
        for warning in (await check_server(client)).warnings:
            log.warning("server_unfit", why=warning)
        store = Store(client, settings.namespace, patience_s=_FOR_EVER_S)
        bells = Bells(bell_client, settings.namespace, options.queues)
        worker = Worker(Desk(worker_id, facts, options), store, bells, load_seal(settings.config_dir))
        await worker.run(LocalLauncher(), link)
    finally:
        await client.aclose()
        await bell_client.aclose()
