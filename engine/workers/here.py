"""One worker in this process: where it is and what it has, its guard, its engine, its connections."""

from __future__ import annotations

import functools
import os
import resource
import socket
import time
from collections.abc import Callable

import anyio
import msgspec

from mrun import __version__
from mrun.engine.errors import ExitCode, MrunError, UsageError, our_error
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
from mrun.engine.work.guard import GuardLink, run_guarded
from mrun.engine.work.state import WorkerOptions, WorkerState
from mrun.engine.work.worker import Worker
from mrun.engine.workers.environment import PARENT_VARIABLE, STDIN_VARIABLE, step_environment
from mrun.engine.workers.inventory import inventory_here
from mrun.engine.workers.request import WorkerRequest
from mrun.launchers.base import Allocation
from mrun.launchers.local import LocalLauncher
from mrun.launchers.surroundings import Surroundings

#: Files that a worker has open beside those of its slots; and how many systems usually admit.
_FILES_LEAST, _FILES_USUAL = 64, 1024
#: A worker tries to reach a server that is away until it is told to stop.
_FOR_EVER_S = float("inf")


def run_here(
    request: WorkerRequest,
    settings: Settings,
    broker: Broker,
    around: Surroundings,
    report: Callable[[MrunError], None],
) -> int:
    """Work until told to stop; returns the exit code. Logging is set up already.

    Args:
        report: tells the user of an error, in the engine's process.

    Raises:
        UsageError: it may open so few files that it could not even talk to the server.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < _FILES_LEAST:
        message = f"A worker needs to have {_FILES_LEAST} files open, and some for each slot; here it may have {most}."
        raise UsageError(message, hint=f"ulimit -n {_FILES_USUAL}")
    options = WorkerOptions(
        queues=request.queues,
        inventory=_inventory(settings, around.allocation, request.slots),
        lease_s=settings.lease_s,
        root_study=request.study,
        is_exit_when_done=request.is_exit_when_done,
        idle_exit_s=request.idle_exit_s,
        environment=step_environment(around.script_variables, settings, broker),
        ends_at=_end(around.allocation, request.walltime_s),
    )
    parent = os.environ.get(PARENT_VARIABLE, "")
    if parent.isdigit() and os.getppid() != int(parent):
        # Who started this was killed meanwhile: from here on the guard is told when it dies.
        return int(ExitCode.TERMINATED)
    engine = functools.partial(_run_engine, settings, broker, options, request.name, report)
    return run_guarded(
        engine, ends_with_parent=PARENT_VARIABLE in os.environ, listens_to_stdin=STDIN_VARIABLE in os.environ
    )


def _inventory(settings: Settings, allocation: Allocation | None, slots: int | None) -> Inventory:
    """What this worker has: as it was told, and where nothing was said what it finds."""
    if allocation is not None and STDIN_VARIABLE in os.environ:
        # The other nodes have workers of their own.
        allocation = msgspec.structs.replace(allocation, nodes=allocation.nodes[:1])
    return inventory_here(settings, allocation, slots)


def _end(allocation: Allocation | None, walltime_s: float | None) -> float | None:
    """When this allocation ends, on the monotonic clock: by option, else as the scheduler tells it."""
    if walltime_s is not None:
        return time.monotonic() + walltime_s
    if allocation is None or allocation.ends_at_s is None:
        return None
    return time.monotonic() + allocation.ends_at_s - time.time()


def _run_engine(
    settings: Settings,
    broker: Broker,
    options: WorkerOptions,
    name: str,
    report: Callable[[MrunError], None],
    link: GuardLink,
) -> int:
    """The engine's process: everything here runs below the guard."""
    try:
        anyio.run(_work, settings, broker, options, name, link)
    except (MrunError, BaseExceptionGroup) as error:
        ours = our_error(error)
        if ours is None:
            raise
        report(ours)
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
        worker = Worker(WorkerState(worker_id, facts, options), store, bells, load_seal(settings.config_dir))
        await worker.run(LocalLauncher(), link)
    finally:
        await client.aclose()
        await bell_client.aclose()
