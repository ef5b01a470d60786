"""`mrun queue`: a spec becomes a study that workers can claim."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import anyio
import click
import msgspec

from mrun.cli.invocation import COMMAND_PATIENCE_S, Invocation, current_dir, takes_invocation
from mrun.cli.output import Output
from mrun.cli.shown import counted, work_line
from mrun.engine.errors import BrokerAwayError, UsageError
from mrun.engine.ids import new_study_id
from mrun.engine.plan.dry import INSTANCES_MOST, write_scripts
from mrun.engine.plan.model import Plan
from mrun.engine.store.connect import Broker
from mrun.engine.studies.enqueue import Checked, Opening, Order, Queued, check, enqueue_run, prepare, queued_study

#: The lowest and the highest, as `mrun priority` takes them.
PRIORITIES = (-1000, 1000)
#: Where the options below are kept for `read_order`, in click's context.
_META = "mrun.spec_options"
#: Pause between two looks for a study of which it is not known whether it was queued.
_LOOK_AGAIN_S = 0.1


class ManyValues(click.Option):
    """An option that takes every following word up to the next option, as Merlin's `--vars` does.

    Args:
        separator: what those words must hold, for what follows may also be the command's argument.
    """

    def __init__(self, *words: Any, separator: str = "=", **options: Any) -> None:
        super().__init__(*words, **options)
        self._separator = separator

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Register with click, and let what follows a value be values, too."""
        super().add_to_parser(parser, ctx)
        registered = parser._long_opt[self.opts[0]]
        process_one = registered.process

        def process(value: str, state: Any) -> None:
            process_one(value, state)
            while state.rargs and not state.rargs[0].startswith("-") and self._separator in state.rargs[0]:
                process_one(state.rargs.pop(0), state)

        registered.process = process


def _keep(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    ctx.meta.setdefault(_META, {})[option.name] = value


def order_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that reads a spec. But for `variables` they go to `read_order` by themselves."""
    for decorate in (
        click.option(
            *("--pargs", "arguments"), multiple=True, metavar="K:V …", cls=ManyValues, separator=":",
            expose_value=False, callback=_keep, help="Arguments of the function in --pgen's FILE; takes several.",
        ),
        click.option(
            *("--pgen", "generator"), metavar="FILE", type=click.Path(), expose_value=False, callback=_keep,
            help="Python file with get_custom_generator(env, **kwargs), which gives the parameters.",
        ),
        click.option(
            *("--lenient", "is_lenient"), is_flag=True, expose_value=False, callback=_keep,
            help="Warn of unknown keys, and of more or fewer columns than labels, instead of refusing them.",
        ),
        click.option(
            *("--vars", "variables"), multiple=True, metavar="K=V …", cls=ManyValues,
            help="Set variables of the spec's env block; takes several, and may be given again.",
        ),
    ):  # fmt: skip
        function = decorate(function)
    return function


def spec_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The spec, and the options of every command that queues one, or says what would be queued."""
    function = order_options(function)
    for decorate in (
        click.option(
            *("--samplesfile", "samples_file"), metavar="FILE", type=click.Path(), expose_value=False, callback=_keep,
            help="Table of samples to take instead of the spec's own; copied into merlin_info.",
        ),
        click.option(
            "-o",
            "--output-path",
            metavar="DIR",
            help="Parent of the study's workspace. [default: OUTPUT_PATH, or here]",
        ),
        click.argument("spec", metavar="SPEC", type=click.Path()),
    ):  # fmt: skip
        function = decorate(function)
    return function


def read_order(spec: str, variables: tuple[str, ...], output_path: str | None) -> Order:
    """The words of the command as an order.

    Raises:
        UsageError: a variable without `=`, an argument without `:`, or arguments without a generator.
    """
    kept: dict[str, Any] = click.get_current_context().meta.get(_META, {})
    generator, arguments = kept.get("generator"), kept.get("arguments", ())
    if arguments and generator is None:
        hint = f"For example: mrun queue {spec} --pgen pgen.py --pargs {arguments[0]}"
        raise UsageError("--pargs was given without --pgen.", hint=hint)
    return Order(
        spec,
        _pairs(variables, "=", "--vars takes NAME=VALUE", "mrun queue spec.yaml --vars ITER=2 N=100"),
        output_path,
        is_lenient=kept.get("is_lenient", False),
        samples_file=kept.get("samples_file"),
        generator=generator,
        generator_arguments=_pairs(arguments, ":", "--pargs takes KEY:VALUE", "--pgen pgen.py --pargs SEED:7"),
        parent_study=os.environ.get("MRUN_STUDY", ""),
    )


def _pairs(words: tuple[str, ...], separator: str, rule: str, example: str) -> dict[str, str]:
    pairs = {}
    for word in words:
        key, found, value = word.partition(separator)
        if not found or not key:
            raise UsageError(f"{rule}, not '{word}'.", hint=f"For example: {example}")
        pairs[key] = value
    return pairs


def check_order(order: Order) -> Checked:
    """Everything that can be wrong with the spec, before a server is looked for."""
    return check(order, os.environ, current_dir())


def say_queued(output: Output, queued: Queued, write: Callable[[str], None]) -> None:
    """What was queued, and where its results will be."""
    output.warn(queued.warnings)
    samples = f", {counted(queued.sample_count, 'sample')}" if queued.sample_count else ""
    write(
        f"study      {queued.study}  {queued.name}: {counted(queued.step_count, 'step')}{samples}; "
        f"{counted(queued.script_count, 'script')} to run"
    )
    write(f"workspace  {queued.workspace}")


def turn_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--priority` and `--after`: when it is the study's turn."""
    for decorate in (
        click.option(
            *("--after",), metavar="STUDY",
            help="Begin when this study has ended, however it ended; at once if it has. [default: at once]",
        ),
        click.option(
            *("--priority",), type=click.IntRange(*PRIORITIES), metavar="N", default=0, show_default=True,
            help="Samples of studies with a higher N (-1000 to 1000) are claimed first.",
        ),
    ):  # fmt: skip
        function = decorate(function)
    return function


def dry_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--dry`."""
    text = f"Only make the workspace, and the scripts of the first {INSTANCES_MOST:,} instances of each step."
    return click.option("--dry", "is_dry", is_flag=True, help=text)(function)


def run_dry(invocation: Invocation, checked: Checked) -> None:
    """Write what would be run, and say where. No server is asked."""
    written = write_scripts(prepare(checked))
    warnings = (*checked.warnings, *(text for text in written.warnings if text not in checked.warnings))
    output = invocation.output
    output.warn(warnings)
    output.data(msgspec.structs.replace(written, warnings=warnings))
    output.ids([written.workspace])
    output.say(f"dry run    {written.name}: {counted(written.written, 'script')} written, nothing was queued or run")
    output.say(f"workspace  {written.workspace}")
    if written.left_out:
        output.note(
            f"{counted(written.left_out, 'script')} left out: a dry run writes those of the first "
            f"{INSTANCES_MOST:,} instances of each step"
        )


@click.command("queue")
@spec_options
@turn_options
@dry_option
@takes_invocation
def command(
    invocation: Invocation,
    spec: str,
    variables: tuple[str, ...],
    output_path: str | None,
    priority: int,
    after: str | None,
    is_dry: bool,
) -> None:
    """Queue a study, for workers to run.

    Makes the study's workspace, generates its samples if the spec says how, and puts it on the server. Returns at once,
    however many samples there are; `mrun work` runs them.

    \b
    Examples:
      $ mrun queue spec.yaml
      $ mrun queue spec.yaml --vars N_SAMPLES=1000 ITER=2
      $ mrun queue spec.yaml -o /scratch/me
      $ mrun queue spec.yaml --samplesfile samples.npy --dry
      $ mrun queue spec.yaml --pgen pgen.py --pargs SEED:7 COUNT:20
      $ mrun queue spec.yaml --priority 10 --after last
    """
    order = msgspec.structs.replace(read_order(spec, variables, output_path), priority=priority)
    checked = check_order(order)
    if is_dry:
        run_dry(invocation, checked)
        return
    queue_checked(invocation, checked, prepare, after)


def queue_checked(
    invocation: Invocation, checked: Checked, make_plan: Callable[[Checked], Plan], after: str | None
) -> None:
    """Queue what was found good, and say so.

    Args:
        make_plan: as `prepare`.
        after: a selector of the study whose end it waits for.

    Raises:
        NotFoundError: there is no such study; nothing was made then.
        UsageError: there are several.
    """
    broker = invocation.reach_broker(invocation.settings())

    async def find(selector: str) -> str:
        async with invocation.session(broker=broker) as session:
            studies = await session.views.find(selector)
        if len(studies) != 1:
            raise UsageError(f"--after '{selector}' names {len(studies)} studies.", hint="Name one of them.")
        return studies[0]

    order = checked.order
    if after is not None:
        order = msgspec.structs.replace(order, after=anyio.run(find, after))
    # Not within the session: `generate` may take hours, and no connection waits for it.
    plan = make_plan(checked)

    study = new_study_id()

    async def run() -> Queued:
        async with invocation.session(broker=broker, is_lasting=True) as session:
            try:
                return await enqueue_run(session.store, session.seal, plan, order, Opening(study), checked.warnings)
            except BrokerAwayError as error:
                if study not in session.store.asked_for:
                    raise
                away = error
        if await _find_out(invocation, broker, study, away):
            return queued_study(study, plan, checked.warnings)
        raise BrokerAwayError(f"{away.message} The study was not queued.", hint=away.hint)

    queued = anyio.run(run)
    output = invocation.output
    output.data(queued)
    output.ids([queued.study])
    say_queued(output, queued, output.say)
    output.note(server_line(broker))
    output.note(f"run it:    {work_line(queued.queues)}")


async def _find_out(invocation: Invocation, broker: Broker, study: str, away: BrokerAwayError) -> bool:
    """Whether a study was queued whose commit got no answer: its request, or only its answer, may have been lost.

    False: it was not, and is not any more, should the request still be on its way.

    Raises:
        BrokerError: nobody can tell now; or it is queued, and may be lost with the server's machine.
    """
    deadline: float | None = None
    while True:
        try:
            async with invocation.session(broker=broker, is_lasting=True) as session:
                if await session.store.call("EXISTS", session.store.keys.study(study)):
                    await session.store.await_flush()
                    return True
                await session.store.purge(study)
                return False
        except BrokerAwayError:
            deadline = deadline or time.monotonic() + COMMAND_PATIENCE_S
            if time.monotonic() > deadline:
                text = f"{away.message} Whether study '{study}' was queued is not known."
                hint = (
                    f"When the server is back, `mrun status {study}` tells; only if it is not known there, queue again."
                )
                raise BrokerAwayError(text, hint=hint) from away
            await anyio.sleep(_LOOK_AGAIN_S)


def server_line(broker: Broker) -> str:
    """Which server it is, and, if mrun started it, how it is stopped."""
    if not broker.is_own:
        return f"server     {broker.url} ({broker.origin})"
    started = ", started now" if broker.was_started else ""
    return f"server     {broker.origin}{started}; it goes on running until `mrun server stop`"
