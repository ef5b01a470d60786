"""`mrun queue`: a spec becomes a study that workers can claim."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import click

from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.output import Output
from mrun.cli.shown import counted
from mrun.engine.enqueue import Checked, Order, Queued, check, enqueue, prepare
from mrun.engine.errors import UsageError
from mrun.engine.store.connect import Broker


def spec_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that queues a spec."""
    for decorate in (
        click.option(
            "-o",
            "--output-path",
            metavar="DIR",
            help="Parent of the study's workspace. [default: OUTPUT_PATH, or here]",
        ),
        click.option(
            "--vars",
            "variables",
            multiple=True,
            metavar="K=V …",
            cls=ManyValues,
            help="Set variables of the spec's env block; takes several, and may be given again.",
        ),
        click.argument("spec", metavar="SPEC", type=click.Path()),
    ):
        function = decorate(function)
    return function


class ManyValues(click.Option):
    """An option that takes every following word up to the next option, as Merlin's `--vars` does."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Register with click, and let what follows a value be values, too."""
        super().add_to_parser(parser, ctx)
        registered = parser._long_opt["--vars"]
        process_one = registered.process

        def process(value: str, state: Any) -> None:
            process_one(value, state)
            while state.rargs and not state.rargs[0].startswith("-") and "=" in state.rargs[0]:
                process_one(state.rargs.pop(0), state)

        registered.process = process


def read_order(spec: str, variables: tuple[str, ...], output_path: str | None) -> Order:
    """The words of the command as an order.

    Raises:
        UsageError: a variable without `=`.
    """
    pairs = {}
    for word in variables:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(
                f"--vars takes NAME=VALUE, not '{word}'.", hint="For example: mrun queue spec.yaml --vars ITER=2 N=100"
            )
        pairs[key] = value
    return Order(spec, pairs, output_path, parent_study=os.environ.get("MRUN_STUDY", ""))


def check_order(order: Order) -> Checked:
    """Everything that can be wrong with the spec, before a server is looked for."""
    return check(order, os.environ, str(Path.cwd()))


def say_queued(output: Output, queued: Queued, write: Callable[[str], None]) -> None:
    """What was queued, and where its results will be."""
    output.warn(queued.warnings)
    samples = f", {counted(queued.sample_count, 'sample')}" if queued.sample_count else ""
    write(
        f"study      {queued.study}  {queued.name}: {counted(queued.step_count, 'step')}{samples}; "
        f"{counted(queued.script_count, 'script')} to run"
    )
    write(f"workspace  {queued.workspace}")


@click.command("queue")
@spec_options
@takes_invocation
def command(invocation: Invocation, spec: str, variables: tuple[str, ...], output_path: str | None) -> None:
    """Queue a study, for workers to run.

    Makes the study's workspace, generates its samples if the spec says how, and puts it on the server. Returns at once,
    however many samples there are; `mrun work` runs them.

    \b
    Examples:
      $ mrun queue spec.yaml
      $ mrun queue spec.yaml --vars N_SAMPLES=1000 ITER=2
      $ mrun queue spec.yaml -o /scratch/me
    """
    order = read_order(spec, variables, output_path)
    checked = check_order(order)
    broker = invocation.reach_broker(invocation.settings())
    # Not within the session: `generate` may take hours, and no connection waits for it.
    plan = prepare(checked)

    async def run() -> Queued:
        async with invocation.session(broker=broker) as session:
            return await enqueue(session.store, session.seal, plan, order, checked.warnings)

    queued = anyio.run(run)
    output = invocation.output
    output.data(queued)
    output.ids([queued.study])
    say_queued(output, queued, output.say)
    output.note(server_line(broker))
    output.note(f"run it:    mrun work --queues {','.join(queued.queues)}")


def server_line(broker: Broker) -> str:
    """Which server it is, and, if mrun started it, how it is stopped."""
    if not broker.is_own:
        return f"server     {broker.url} ({broker.origin})"
    started = ", started now" if broker.was_started else ""
    return f"server     {broker.origin}{started}; it goes on running until `mrun server stop`"
