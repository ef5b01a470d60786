"""From the words of a command to a spec that was found good; and what is said when it was queued, or only tried."""

from __future__ import annotations

import os
from collections.abc import Callable

import anyio
import click
import msgspec

from mrun.cli.invocation import Invocation, current_dir
from mrun.cli.options import grouped
from mrun.cli.output import Output
from mrun.cli.shown import counted, work_line
from mrun.engine.errors import UsageError
from mrun.engine.plan.model import Plan
from mrun.engine.steps.dry import INSTANCES_MOST, write_scripts
from mrun.engine.store.connect import Broker
from mrun.engine.studies.enqueue import Checked, Order, Queued, check, prepare
from mrun.engine.studies.queueing import find_one, queue_plan

#: `--dry`, of the commands that can do without a server.
dry_option = grouped(
    click.option(
        *("--dry", "is_dry"), is_flag=True,
        help=f"Only make the workspace, and the scripts of the first {INSTANCES_MOST:,} instances of each step.",
    )
)  # fmt: skip


class SpecWords(msgspec.Struct, frozen=True, kw_only=True):
    """The values of `spec_options`."""

    spec: str | None
    variables: tuple[str, ...]
    is_lenient: bool
    generator: str | None
    arguments: tuple[str, ...]
    output_path: str | None = None
    samples_file: str | None = None


def read_order(words: SpecWords) -> Order:
    """The words of the command as an order.

    Raises:
        UsageError: a variable without `=`, an argument without `:`, or arguments without a generator.
    """
    spec = words.spec or ""
    if words.arguments and words.generator is None:
        hint = f"For example: mrun queue {spec} --pgen pgen.py --pargs {words.arguments[0]}"
        raise UsageError("--pargs was given without --pgen.", hint=hint)
    return Order(
        spec,
        _pairs(words.variables, "=", "--vars takes NAME=VALUE", "mrun queue spec.yaml --vars ITER=2 N=100"),
        words.output_path,
        is_lenient=words.is_lenient,
        samples_file=words.samples_file,
        generator=words.generator,
        generator_arguments=_pairs(words.arguments, ":", "--pargs takes KEY:VALUE", "--pgen pgen.py --pargs SEED:7"),
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
            return await find_one(session, selector, "--after")

    order = checked.order
    if after is not None:
        order = msgspec.structs.replace(order, after=anyio.run(find, after))
    # Not within the session: `generate` may take hours, and no connection waits for it.
    plan = make_plan(checked)
    queued = anyio.run(
        queue_plan, lambda: invocation.session(broker=broker, is_lasting=True), plan, order, checked.warnings
    )
    output = invocation.output
    output.data(queued)
    output.ids([queued.study])
    say_queued(output, queued, output.say)
    output.note(server_line(broker))
    output.note(f"run it:    {work_line(queued.queues)}")


def say_queued(output: Output, queued: Queued, write: Callable[[str], None]) -> None:
    """What was queued, and where its results will be."""
    output.warn(queued.warnings)
    samples = f", {counted(queued.sample_count, 'sample')}" if queued.sample_count else ""
    write(
        f"study      {queued.study}  {queued.name}: {counted(queued.step_count, 'step')}{samples}; "
        f"{counted(queued.script_count, 'script')} to run"
    )
    write(f"workspace  {queued.workspace}")


def server_line(broker: Broker) -> str:
    """Which server it is, and, if mrun started it, how it is stopped."""
    if not broker.is_own:
        return f"server     {broker.url} ({broker.origin})"
    started = ", started now" if broker.was_started else ""
    return f"server     {broker.origin}{started}; it goes on running until `mrun server stop`"
