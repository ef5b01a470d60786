"""`mrun work`: a worker."""

from __future__ import annotations

import functools
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import click
import msgspec
import structlog

from mrun import __version__
from mrun.cli.commands.queue import ManyValues, order_options, read_order
from mrun.cli.invocation import Invocation, current_dir, takes_invocation
from mrun.cli.logs import set_up_logging
from mrun.cli.output import Output, our_error
from mrun.engine.enqueue import workers_of
from mrun.engine.errors import ExitCode, MrunError, UsageError
from mrun.engine.ids import new_worker_id
from mrun.engine.plan.workers import WorkerOrder
from mrun.engine.records import WorkerFacts
from mrun.engine.settings import Settings
from mrun.engine.store.bells import Bells
from mrun.engine.store.connect import Broker, check_server, open_broker
from mrun.engine.store.durability import flush_needs
from mrun.engine.store.seal import load_seal
from mrun.engine.store.store import LONGEST_PAUSE_S, Store
from mrun.engine.work.desk import Desk, WorkerOptions
from mrun.engine.work.guard import GuardLink, run_guarded
from mrun.engine.work.worker import Worker
from mrun.launchers.base import Allocation
from mrun.launchers.local import LocalLauncher
from mrun.launchers.surroundings import look_around

#: A worker tries to reach a server that is away until it is told to stop.
_FOR_EVER_S = float("inf")

log = structlog.get_logger()


@click.command("work")
@click.argument("spec", required=False, type=click.Path())
@order_options
@click.option(
    *("--steps", "steps"),
    multiple=True,
    metavar="STEP …",
    cls=ManyValues,
    separator="",
    help="Only SPEC's workers of these steps, and only their queues; takes several. [default: all]",
)
@click.option("--echo", "is_echo", is_flag=True, help="Print the commands that start SPEC's workers; start nothing.")
@click.option("--name", metavar="NAME", default="", help="What mrun inspect calls this worker.")
@click.option("--queues", metavar="Q1,Q2", help="Queues (task_queue of steps) to take samples from. [default: SPEC's]")
@click.option(
    "--slots",
    type=click.IntRange(1, 4096),
    help="Scripts to run at once. [default: as SPEC says, or this node's cores]",
)
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
    variables: tuple[str, ...],
    steps: tuple[str, ...],
    is_echo: bool,
    name: str,
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

    With SPEC, starts the workers of its merlin.resources that may run on this machine, a process for each, and waits
    for all of them; --queues comes before that.

    \b
    Examples:
      $ mrun work --queues sim,train
      $ mrun work spec.yaml
      $ mrun work spec.yaml --steps sim train --vars SIZE=4 --echo
      $ mrun work --queues sim --exit-when-done
    """
    orders = _orders(invocation, spec, variables, steps, queues)
    settings = invocation.settings(lease_s=lease_s)
    slots = slots or settings.slots
    rest = _rest(study, walltime_s, log_level, lease_s, is_exit_when_done=is_exit_when_done)
    lines = [_words(invocation, one, slots, rest) for one in orders]
    if is_echo:
        _echo(invocation.output, orders, lines)
        return
    broker = invocation.broker(settings, may_start=True)
    root_study = anyio.run(_root_of, invocation, broker, study) if study else ""
    if len(orders) > 1:
        sys.exit(_run_all(lines, settings, broker))
    (order,) = orders
    set_up_logging(log_level)
    around = anyio.run(look_around, os.environ)
    options = WorkerOptions(
        queues=order.queues,
        slots=slots or order.slots or _cores(around.allocation),
        lease_s=settings.lease_s,
        root_study=root_study,
        is_exit_when_done=is_exit_when_done,
        environment=step_environment(os.environ, settings, broker) | around.step_variables,
        ends_at=_end(around.allocation, walltime_s),
    )
    parent = os.environ.get("MRUN_PARENT", "")
    if parent.isdigit() and os.getppid() != int(parent):
        # `mrun run` was killed while this process started: from here on the guard is told when it dies.
        sys.exit(ExitCode.TERMINATED)
    engine = functools.partial(_run_engine, invocation, settings, broker, options, name or order.name, log_level)
    code = run_guarded(engine, ends_with_parent="MRUN_PARENT" in os.environ)
    sys.exit(code)


def _orders(
    invocation: Invocation, spec: str | None, variables: tuple[str, ...], steps: tuple[str, ...], queues: str | None
) -> tuple[WorkerOrder, ...]:
    """The workers to start: one of --queues, or those of the spec."""
    if spec is None and (steps or variables):
        raise UsageError("--steps and --vars belong to a spec, and none was given.", hint="mrun work spec.yaml …")
    names = tuple(dict.fromkeys(name.strip() for name in (queues or "").split(",") if name.strip()))
    if queues is not None and not names:
        raise UsageError("--queues names no queue.", hint="For example: mrun work --queues sim,train")
    if names:
        return (WorkerOrder("", names),)
    if spec is None:
        raise UsageError(
            "Which queues? Neither --queues nor a spec was given.", hint="For example: mrun work --queues sim,train"
        )
    host = socket.gethostname()
    found = workers_of(read_order(spec, variables, None), os.environ, current_dir(), host, steps)
    invocation.output.warn(found.warnings)
    if not found.here:
        elsewhere = ", ".join(found.elsewhere)
        raise UsageError(
            f"None of the spec's workers may start on '{host}': {elsewhere}.",
            hint="Add the host to a worker's machines, or give --queues.",
        )
    if found.elsewhere:
        invocation.output.note(f"not for this machine: {', '.join(found.elsewhere)}")
    return found.here


async def _root_of(invocation: Invocation, broker: Broker, selector: str) -> str:
    """The study that a selector means, or the one whose steps queued it. NotFoundError if there is none."""
    async with invocation.session(broker=broker) as session:
        found = await session.views.find(selector)
        if len(found) != 1:
            raise UsageError(f"--study takes one study, and '{selector}' means {len(found)}.")
        return (await session.views.status(found[0])).root


def _rest(
    study: str, walltime_s: float | None, log_level: str, lease_s: str | None, *, is_exit_when_done: bool
) -> list[str]:
    """The words for options that are the same for every worker of a spec."""
    words = ["--study", study] if study else []
    words += ["--walltime", f"{walltime_s:g}"] if walltime_s is not None else []
    words += ["--lease", lease_s] if lease_s is not None else []
    words += ["--log-level", log_level] if log_level != "info" else []
    return words + (["--exit-when-done"] if is_exit_when_done else [])


def _words(invocation: Invocation, order: WorkerOrder, slots: int | None, rest: list[str]) -> list[str]:
    """The command that starts one worker, `mrun` at its front. --slots comes before what the spec says."""
    namespace = invocation.settings().namespace
    words = ["mrun", *(["--namespace", namespace] if namespace != "mrun" else []), "work"]
    words += ["--queues", ",".join(order.queues)]
    words += ["--slots", str(slots or order.slots)] if slots or order.slots else []
    return words + (["--name", order.name] if order.name else []) + rest


def _echo(output: Output, orders: Sequence[WorkerOrder], lines: Sequence[list[str]]) -> None:
    output.data([{**msgspec.structs.asdict(order), "command": line} for order, line in zip(orders, lines, strict=True)])
    output.ids(order.name for order in orders)
    for line in lines:
        output.say(shlex.join(line))


def _run_all(lines: Sequence[list[str]], settings: Settings, broker: Broker) -> int:
    """A process for each worker, until all have ended; signals go to every one. Returns the worst of their codes."""
    environment = dict(os.environ) | {"MRUN_PARENT": str(os.getpid()), "MRUN_DURABILITY": settings.durability}
    if broker.is_own or settings.broker is not None:
        environment["MRUN_BROKER"] = broker.url
    workers: list[subprocess.Popen[bytes]] = []
    signals = 0

    def pass_on(*_: object) -> None:
        nonlocal signals
        signals += 1
        for worker in workers:
            worker.send_signal(signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    for line in lines:
        if signals:
            break
        # A session of its own: Ctrl-C comes to this process only, which passes it on.
        command = [sys.executable, "-m", *line]
        before = signals
        workers.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True))
        if signals > before:
            workers[-1].send_signal(signal.SIGTERM)
    codes = [worker.wait() for worker in workers]
    return max((code if code >= 0 else 128 - code for code in codes), default=int(ExitCode.DONE))


def _cores(allocation: Allocation | None) -> int:
    """Cores of this node that are ours: as the scheduler tells it, else as the kernel does."""
    return (allocation.cores if allocation else 0) or len(os.sched_getaffinity(0))


def _end(allocation: Allocation | None, walltime_s: float | None) -> float | None:
    """When this allocation ends, on the monotonic clock: by option, else as the scheduler tells it."""
    if walltime_s is not None:
        return time.monotonic() + walltime_s
    if allocation is None or allocation.ends_at_s is None:
        return None
    return time.monotonic() + allocation.ends_at_s - time.time()


def step_environment(environment: Mapping[str, str], settings: Settings, broker: Broker) -> dict[str, str]:
    """What steps get: the worker's variables, and what a nested `mrun queue` needs to reach the same server.

    The directory of this Python stands at the end of PATH: `mrun` is found where nothing else of that name is, and no
    program of the user's is hidden. `MRUN_PYTHON` is this Python.
    """
    own = {"MRUN_NAMESPACE": settings.namespace, "MRUN_PYTHON": sys.executable}
    own["MRUN_DURABILITY"] = settings.durability
    if settings.broker is not None or broker.is_own:
        own["MRUN_BROKER"] = broker.url
    path = [*environment.get("PATH", os.defpath).split(os.pathsep), str(Path(sys.executable).parent)]
    inherited = {name: value for name, value in environment.items() if name != "MRUN_PARENT"}
    return inherited | own | {"PATH": os.pathsep.join(dict.fromkeys(path))}


def _run_engine(
    invocation: Invocation,
    settings: Settings,
    broker: Broker,
    options: WorkerOptions,
    name: str,
    log_level: str,
    link: GuardLink,
) -> int:
    """The engine's process: everything here runs below the guard."""
    set_up_logging(log_level)
    try:
        anyio.run(_work, settings, broker, options, name, link)
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
        slots=options.slots,
        version=__version__,
        name=name,
    )
    client, bell_client = await open_broker(broker), await open_broker(broker, is_blocking=True)
    try:
        for warning in (await check_server(client)).warnings:
            log.warning("server_unfit", why=warning)
        # As often as it beats, at least: after an outage its lease is short, and begins with whoever comes back first.
        pause_s = min(LONGEST_PAUSE_S, options.lease_s / 8)
        flush = await flush_needs(client, broker, settings)
        store = Store(client, settings.namespace, patience_s=_FOR_EVER_S, longest_pause_s=pause_s, flush=flush)
        bells = Bells(bell_client, settings.namespace, options.queues, worker_id)
        worker = Worker(Desk(worker_id, facts, options), store, bells, load_seal(settings.config_dir))
        await worker.run(LocalLauncher(), link)
    finally:
        await client.aclose()
        await bell_client.aclose()
