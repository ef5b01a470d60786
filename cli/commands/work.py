"""`mrun work`: a worker, those that a spec asks for, or one on each node of an allocation."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import click
import msgspec

from mrun.cli.commands.queue import ManyValues, order_options, read_order
from mrun.cli.durations import as_duration_s, written
from mrun.cli.fanout import fan_out
from mrun.cli.invocation import Invocation, address_for_children, current_dir, takes_said
from mrun.cli.logs import set_up_logging
from mrun.cli.one_worker import WorkerSaid, run_here
from mrun.cli.output import Output
from mrun.engine.errors import UsageError
from mrun.engine.plan.workers import WorkerOrder
from mrun.engine.settings import Settings
from mrun.engine.store.connect import Broker
from mrun.engine.studies.enqueue import workers_of
from mrun.launchers.surroundings import Surroundings, look_around
from mrun.launchers.worker_launch import ALL, HERE, Launched, launched


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """The words of one `mrun work`."""

    spec: str | None
    variables: tuple[str, ...]
    steps: tuple[str, ...]
    is_echo: bool
    name: str
    queues: str | None
    slots: int | None
    resources: str | None
    nodes: str | None
    lease_s: str | None
    is_exit_when_done: bool
    idle_exit_s: float | None
    study: str
    walltime_s: float | None
    log_level: str


def _check_nodes(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is None or value in (ALL, HERE) or (value.isascii() and value.isdigit() and int(value) > 0):
        return value
    raise click.BadParameter(f"'{value}' is no number of nodes, nor {ALL} or {HERE}.")


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
@click.option("--echo", "is_echo", is_flag=True, help="Print the commands that would be run; start nothing.")
@click.option("--name", metavar="NAME", default="", help="What mrun inspect calls this worker.")
@click.option("--queues", metavar="Q1,Q2", help="Queues (task_queue of steps) to take samples from. [default: SPEC's]")
@click.option(
    "--nodes",
    metavar="N|all|here",
    callback=_check_nodes,
    help="Start a worker on each of N nodes of this allocation, or of all; here: on this machine. "
    "[default: as SPEC says, or here]",
)
@click.option(
    "--slots",
    type=click.IntRange(1, 4096),
    help="Scripts to run at once. [default: as SPEC says, or the node's cores]",
)
@click.option(
    "--resources",
    metavar="NAME=N,…",
    help="What a worker has: cpus=8-15,gpus=2,licenses/foo=2. [default: CPUs and GPUs that it finds]",
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
@click.option(
    *("--idle-exit", "idle_exit_s"),
    callback=as_duration_s,
    metavar="TIME",
    help="Exit after so long without work, such as 5m. [default: never]",
)
@click.option("--study", metavar="ID", default="", help="Only this study, and those that its steps queue.")
@click.option(
    *("--walltime", "walltime_s"),
    callback=as_duration_s,
    metavar="TIME",
    help="End of this allocation, from now: 1:30:00, 90m, or seconds. [default: as its scheduler says]",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Least important events to log.",
)
@takes_said(Said)
def command(invocation: Invocation, said: Said) -> None:
    """Run samples from queues until told to stop.

    Start as many workers as you like, wherever the server can be reached. The first Ctrl-C or SIGTERM lets running
    samples finish and hands the rest back; the second ends them and hands them back, too. Nothing is lost if a worker
    is killed: others take over when its lease ends.

    A sample runs when its step's resources are free here: procs times cores per task, gpus, and those that the spec
    names itself. With --resources scripts are bound to CPUs and GPUs of their own, and samples that need more are left
    to other workers. Without, more CPUs than there are means all of them; see docs/launchers.md.

    In an allocation, --nodes all starts a worker on each of its nodes, with all that the node has, and waits for them;
    signals reach every one, and the exit code is the highest of theirs.

    With SPEC, starts the workers of its merlin.resources that may run on this machine, launched as they and the batch
    block say, and waits for all of them; --queues comes before that.

    \b
    Examples:
      $ mrun work --queues sim,train
      $ mrun work --queues sim --nodes all
      $ mrun work spec.yaml
      $ mrun work spec.yaml --steps sim train --vars SIZE=4 --echo
      $ mrun work --queues sim --exit-when-done --walltime 1h30m
    """
    orders = _orders(invocation, said)
    settings = invocation.settings(lease_s=said.lease_s, resources=said.resources)
    set_up_logging(said.log_level)
    around = anyio.run(look_around, os.environ)
    launches = [_launch(invocation, order, said, settings, around) for order in orders]
    if said.is_echo:
        _echo(invocation.output, orders, launches)
        return
    broker = invocation.broker(settings, may_start=True)
    root_study = anyio.run(_root_of, invocation, broker, said.study) if said.study else ""
    if len(launches) > 1 or not launches[0].is_here:
        sys.exit(fan_out(launches, _environment(settings, broker), invocation.output))
    (order,) = orders
    one = WorkerSaid(
        queues=order.queues,
        name=said.name or order.name,
        slots=_slots(order, said, settings),
        walltime_s=said.walltime_s,
        root_study=root_study,
        is_exit_when_done=said.is_exit_when_done,
        idle_exit_s=said.idle_exit_s,
        log_level=said.log_level,
    )
    sys.exit(run_here(invocation, settings, broker, around, one))


def _orders(invocation: Invocation, said: Said) -> tuple[WorkerOrder, ...]:
    """The workers to start: one of --queues, or those of the spec."""
    if said.spec is None and (said.steps or said.variables):
        raise UsageError("--steps and --vars belong to a spec, and none was given.", hint="mrun work spec.yaml …")
    names = tuple(dict.fromkeys(name.strip() for name in (said.queues or "").split(",") if name.strip()))
    if said.queues is not None and not names:
        raise UsageError("--queues names no queue.", hint="For example: mrun work --queues sim,train")
    if names:
        return (WorkerOrder("", names),)
    if said.spec is None:
        raise UsageError(
            "Which queues? Neither --queues nor a spec was given.", hint="For example: mrun work --queues sim,train"
        )
    host = socket.gethostname()
    found = workers_of(read_order(said.spec, said.variables, None), os.environ, current_dir(), host, said.steps)
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


def _launch(
    invocation: Invocation, order: WorkerOrder, said: Said, settings: Settings, around: Surroundings
) -> Launched:
    """The command that starts one worker, or one on each of some nodes. What the command says comes before the spec."""
    asked = order.launch
    if said.nodes is not None:
        asked = msgspec.structs.replace(asked, nodes=said.nodes, is_told=said.nodes != HERE)
    return launched(asked, os.environ, around, (*_program(), *_words(order, said, settings)))


def _program() -> tuple[str, ...]:
    """This `mrun`: by its name, if that is what the PATH finds."""
    ours = Path(sys.executable).with_name("mrun")
    found = shutil.which("mrun")
    if found is not None and ours.exists() and Path(found).samefile(ours):
        return ("mrun",)
    return (str(ours),) if ours.exists() else (sys.executable, "-m", "mrun")


def _words(order: WorkerOrder, said: Said, settings: Settings) -> tuple[str, ...]:
    """The words of one worker, behind `mrun`."""
    slots, name = _slots(order, said, settings), said.name or order.name
    options = {
        "--slots": str(slots) if slots else None,
        "--name": name or None,
        "--study": said.study or None,
        "--walltime": written(said.walltime_s) if said.walltime_s is not None else None,
        "--idle-exit": written(said.idle_exit_s) if said.idle_exit_s is not None else None,
        "--resources": said.resources,
        "--lease": said.lease_s,
        "--log-level": said.log_level if said.log_level != "info" else None,
    }
    given = [word for option, value in options.items() if value is not None for word in (option, value)]
    return (
        *(("--namespace", settings.namespace) if settings.namespace != "mrun" else ()),
        *("work", "--queues", ",".join(order.queues)),
        *given,
        *(("--exit-when-done",) if said.is_exit_when_done else ()),
    )


def _slots(order: WorkerOrder, said: Said, settings: Settings) -> int | None:
    return said.slots or settings.slots or order.slots


def _echo(output: Output, orders: Sequence[WorkerOrder], launches: Sequence[Launched]) -> None:
    output.data(
        [
            {**msgspec.structs.asdict(order), "command": launch.words}
            for order, launch in zip(orders, launches, strict=True)
        ]
    )
    output.ids(order.name for order in orders)
    for launch in launches:
        output.say(shlex.join(launch.words))


def _environment(settings: Settings, broker: Broker) -> dict[str, str]:
    """What the workers find of this process' environment. No password is in their words."""
    environment = dict(os.environ) | {"MRUN_DURABILITY": settings.durability}
    if (address := address_for_children(settings, broker)) is not None:
        environment["MRUN_BROKER"] = address
    return environment


async def _root_of(invocation: Invocation, broker: Broker, selector: str) -> str:
    """The study that a selector means, or the one whose steps queued it. NotFoundError if there is none."""
    async with invocation.session(broker=broker) as session:
        found = await session.views.find(selector)
        if len(found) != 1:
            raise UsageError(f"--study takes one study, and '{selector}' means {len(found)}.")
        return (await session.views.status(found[0])).root
