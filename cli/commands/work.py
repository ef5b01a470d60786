"""`mrun work`: a worker, those that a spec asks for, or one on each node of an allocation."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Sequence

import anyio
import click
import msgspec

from mrun.cli.durations import as_duration_s
from mrun.cli.invocation import Invocation, current_dir, takes_words
from mrun.cli.logs import set_up_logging
from mrun.cli.options import lease_option, order_options, steps_option
from mrun.cli.orders import SpecWords, read_order
from mrun.cli.output import Output
from mrun.cli.selectors import parse_names
from mrun.engine.errors import UsageError
from mrun.engine.steps.workers import WorkerOrder
from mrun.engine.store.connect import Broker
from mrun.engine.studies.enqueue import workers_of
from mrun.engine.studies.queueing import find_one
from mrun.engine.workers.environment import worker_environment
from mrun.engine.workers.fanout import fan_out
from mrun.engine.workers.here import run_here
from mrun.engine.workers.request import WorkerRequest, program_words, with_order, worker_words
from mrun.launchers.surroundings import look_around
from mrun.launchers.worker_launch import ALL, HERE, Launched, WorkerLaunch, launched


class WorkWords(SpecWords, frozen=True, kw_only=True):
    """The arguments and options of `mrun work`."""

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
@steps_option("Only SPEC's workers of these steps, and only their queues; takes several. [default: all]")
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
    help="What a worker has, such as cpus=8-15,gpus=2,licenses/foo=2. [default: the CPUs and GPUs that it finds]",
)
@lease_option
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
@takes_words(WorkWords)
def command(invocation: Invocation, given: WorkWords) -> None:
    """Run samples from queues until told to stop.

    Start as many workers as you like, on any machine that can reach the server. After the first Ctrl-C or SIGTERM the
    worker lets running samples finish and hands all others back. After the second one it ends the running samples and
    hands them back, too. Nothing is lost if a worker is killed: others take over when its lease ends.

    A sample runs when the resources of its step are free here: procs times cores per task, gpus, and resources that the
    spec names itself. With --resources each script is bound to CPUs and GPUs of its own, and samples that need more
    than the worker has are left to other workers. Without --resources, a step that asks for more CPUs than the machine
    has gets all of them; see docs/launchers.md.

    In an allocation, --nodes all starts a worker on each node, with all that the node has, and waits for these workers.
    Signals reach every one of them, and the exit code is the highest of theirs.

    With SPEC, this command starts the workers of the spec's merlin.resources that may run on this machine, and waits
    for them. It launches them as merlin.resources and the batch block say. --queues comes before the spec.

    \b
    Examples:
      $ mrun work --queues sim,train
      $ mrun work --queues sim --nodes all
      $ mrun work spec.yaml
      $ mrun work spec.yaml --steps sim train --vars SIZE=4 --echo
      $ mrun work --queues sim --exit-when-done --walltime 1h30m
    """
    orders = _orders(invocation, given)
    settings = invocation.settings(lease_s=given.lease_s, resources=given.resources)
    set_up_logging(given.log_level)
    asked = WorkerRequest(
        **{name: getattr(given, name) for name in WorkerRequest.__struct_fields__ if name != "queues"}
    )
    requests = [with_order(asked, order, settings) for order in orders]
    around = anyio.run(look_around, os.environ)
    launches = [
        launched(_launch(order, given.nodes), os.environ, around, (*program_words(), *worker_words(one, settings)))
        for order, one in zip(orders, requests, strict=True)
    ]
    output = invocation.output
    if given.is_echo:
        _echo(output, orders, launches)
        return
    broker = invocation.broker(settings, may_start=True)
    root_study = anyio.run(_root_of, invocation, broker, given.study) if given.study else ""
    if len(launches) > 1 or not launches[0].is_here:
        sys.exit(fan_out(launches, worker_environment(os.environ, settings, broker), output.error))
    request = msgspec.structs.replace(requests[0], study=root_study)
    sys.exit(run_here(request, settings, broker, around, output.error))


def _orders(invocation: Invocation, given: WorkWords) -> tuple[WorkerOrder, ...]:
    """The workers to start: one of --queues, or those of the spec."""
    if given.spec is None and (given.steps or given.variables):
        raise UsageError("--steps and --vars belong to a spec, and none was given.", hint="mrun work spec.yaml …")
    names = parse_names(given.queues or "")
    if given.queues is not None and not names:
        raise UsageError("--queues names no queue.", hint="For example: mrun work --queues sim,train")
    if names:
        return (WorkerOrder("", names),)
    if given.spec is None:
        raise UsageError(
            "Which queues? Neither --queues nor a spec was given.", hint="For example: mrun work --queues sim,train"
        )
    host = socket.gethostname()
    found = workers_of(read_order(given), os.environ, current_dir(), host, given.steps)
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


def _launch(order: WorkerOrder, nodes: str | None) -> WorkerLaunch:
    """How a worker is launched: what the command says comes before the spec."""
    return order.launch if nodes is None else msgspec.structs.replace(order.launch, nodes=nodes, is_told=nodes != HERE)


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


async def _root_of(invocation: Invocation, broker: Broker, selector: str) -> str:
    """The study that a selector means, or the one whose steps queued it. NotFoundError if there is none."""
    async with invocation.session(broker=broker) as session:
        return (await session.views.status(await find_one(session, selector, "--study"))).root
