"""One worker in this process: where it is and what it has, its guard, its engine, its connections."""

from __future__ import annotations

import functools
import os
import resource
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import anyio
import msgspec

from mrun import __version__
from mrun.cli.invocation import Invocation
from mrun.cli.logs import set_up_logging
from mrun.cli.output import our_error
from mrun.cli.stock import stock_of
from mrun.engine.errors import ExitCode, MrunError, UsageError
from mrun.engine.ids import new_worker_id
from mrun.engine.logging import log
from mrun.engine.records import WorkerFacts
from mrun.engine.resources import Inventory
from mrun.engine.settings import Settings
from mrun.engine.store.bells import Bells
from mrun.engine.store.connect import Broker, check_server, greeted, open_broker
from mrun.engine.store.durability import flush_needs
from mrun.engine.store.seal import load_seal
from mrun.engine.store.store import LONGEST_PAUSE_S, Store
from mrun.engine.work.desk import Desk, WorkerOptions
from mrun.engine.work.guard import GuardLink, run_guarded
from mrun.engine.work.worker import Worker
from mrun.launchers.base import Allocation
from mrun.launchers.local import LocalLauncher
from mrun.launchers.surroundings import Surroundings

#: The process that started this worker on this machine, and is to be its end.
PARENT_VARIABLE = "MRUN_PARENT"
#: Set for a worker that was started on another node: it is told on its stdin when it is to stop.
STDIN_VARIABLE = "MRUN_LISTENS"
#: What is said to one worker, and not to its scripts.
_OWN_VARIABLES = frozenset({PARENT_VARIABLE, STDIN_VARIABLE})
#: Files that a worker has open beside those of its slots; and how many systems usually admit.
_FILES_LEAST, _FILES_USUAL = 64, 1024
#: A worker tries to reach a server that is away until it is told to stop.
_FOR_EVER_S = float("inf")


class WorkerSaid(msgspec.Struct, frozen=True):
    """What one worker is asked to be."""

    queues: tuple[str, ...]
    name: str
    slots: int | None
    walltime_s: float | None
    root_study: str
    is_exit_when_done: bool
    idle_exit_s: float | None
    log_level: str


def run_here(invocation: Invocation, settings: Settings, broker: Broker, around: Surroundings, said: WorkerSaid) -> int:
    """Work until told to stop; returns the exit code. Logging is set up already.

    Raises:
        UsageError: it may open so few files that it could not even talk to the server.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < _FILES_LEAST:
        message = f"A worker needs to have {_FILES_LEAST} files open, and some for each slot; here it may have {most}."
        raise UsageError(message, hint=f"ulimit -n {_FILES_USUAL}")
    options = WorkerOptions(
        queues=said.queues,
        inventory=_inventory(settings, around.allocation, said.slots),
        lease_s=settings.lease_s,
        root_study=said.root_study,
        is_exit_when_done=said.is_exit_when_done,
        idle_exit_s=said.idle_exit_s,
        environment=step_environment(around.script_variables, settings, broker),
        ends_at=_end(around.allocation, said.walltime_s),
    )
    parent = os.environ.get(PARENT_VARIABLE, "")
    if parent.isdigit() and os.getppid() != int(parent):
        # Who started this was killed meanwhile: from here on the guard is told when it dies.
        return int(ExitCode.TERMINATED)
    engine = functools.partial(_run_engine, invocation, settings, broker, options, said)
    return run_guarded(
        engine, ends_with_parent=PARENT_VARIABLE in os.environ, listens_to_stdin=STDIN_VARIABLE in os.environ
    )


def step_environment(environment: Mapping[str, str], settings: Settings, broker: Broker) -> dict[str, str]:
    """What steps get: the worker's variables, and what a nested `mrun queue` needs to reach the same server.

    The directory of this Python stands at the end of PATH: `mrun` is found where nothing else of that name is, and no
    program of the user's is hidden. `MRUN_PYTHON` is this Python.
    """
    own = {"MRUN_NAMESPACE": settings.namespace, "MRUN_PYTHON": sys.executable}
    own["MRUN_DURABILITY"] = settings.durability
    if settings.broker is not None or broker.is_own:
        # As it was named: the broker's own address does not tell the user.
        own["MRUN_BROKER"] = settings.broker or broker.url
    path = [*environment.get("PATH", os.defpath).split(os.pathsep), str(Path(sys.executable).parent)]
    inherited = {name: value for name, value in environment.items() if name not in _OWN_VARIABLES}
    return inherited | own | {"PATH": os.pathsep.join(dict.fromkeys(path))}


def _inventory(settings: Settings, allocation: Allocation | None, slots: int | None) -> Inventory:
    """What this worker has: as it was told, and where nothing was said what it finds."""
    if allocation is not None and STDIN_VARIABLE in os.environ:
        # The other nodes have workers of their own.
        allocation = msgspec.structs.replace(allocation, nodes=allocation.nodes[:1])
    return stock_of(settings, allocation, slots)


def _end(allocation: Allocation | None, walltime_s: float | None) -> float | None:
    """When this allocation ends, on the monotonic clock: by option, else as the scheduler tells it."""
    if walltime_s is not None:
        return time.monotonic() + walltime_s
    if allocation is None or allocation.ends_at_s is None:
        return None
    return time.monotonic() + allocation.ends_at_s - time.time()


def _run_engine(
    invocation: Invocation,
    settings: Settings,
    broker: Broker,
    options: WorkerOptions,
    said: WorkerSaid,
    link: GuardLink,
) -> int:
    """The engine's process: everything here runs below the guard."""
    set_up_logging(said.log_level)
    try:
        anyio.run(_work, settings, broker, options, said.name, link)
    except (MrunError, BaseExceptionGroup) as error:
        ours = our_error(error)
        if ours is None:
            raise
        invocation.output.error(ours)
        return int(ours.exit_code)
    return int(ExitCode.DONE)


async def _work(settings: Settings, broker: Broker, options: WorkerOptions, name: str, link: GuardLink) -> None:
    host = socket.gethostname()
    worker_id = new_worker_id(host)
    facts = WorkerFacts(
        host=host,
        pid=os.getpid(),
        queues=options.queues,
        slots=options.inventory.slots,
        resources=options.inventory.text,
        has_told_cpus=options.inventory.has_told_cpus,
        version=__version__,
        name=name,
    )
    client = await greeted(functools.partial(open_broker, broker))
    bell_client = await greeted(functools.partial(open_broker, broker, is_blocking=True))
    try:
        for warning in (await greeted(functools.partial(check_server, client))).warnings:
            log.warning("server_unfit", why=warning)
        flush = await greeted(functools.partial(flush_needs, client, broker, settings))
        # As often as it beats, at least: after an outage its lease is short, and begins with whoever comes back first.
        pause_s = min(LONGEST_PAUSE_S, options.lease_s / 8)
        store = Store(client, settings.namespace, patience_s=_FOR_EVER_S, longest_pause_s=pause_s, flush=flush)
        bells = Bells(bell_client, settings.namespace, options.queues, worker_id)
        worker = Worker(Desk(worker_id, facts, options), store, bells, load_seal(settings.config_dir))
        await worker.run(LocalLauncher(), link)
    finally:
        await client.aclose()
        await bell_client.aclose()
