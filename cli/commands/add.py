"""`mrun add`: more samples for a study."""

from __future__ import annotations

import anyio
import click

from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.selectors import find_workspace
from mrun.cli.shown import counted, work_line
from mrun.cli.waiting import Display, wait_for_end
from mrun.engine.store.session import Session
from mrun.engine.studies.growth import Added, StillRunningError, add_samples


@click.command("add")
@click.argument("study", metavar="STUDY")
@click.option(
    *("--samplesfile", "samples_file"),
    metavar="FILE",
    type=click.Path(),
    required=True,
    help="Table of the new samples, with the study's columns: .npy, .csv or .tab; copied into merlin_info.",
)
@click.option(
    *("--lenient", "is_lenient"),
    is_flag=True,
    help="Warn of more or fewer columns than labels, instead of refusing them.",
)
@click.option(
    *("--wait", "is_waiting"),
    is_flag=True,
    help="If the study takes no more samples while it runs, wait for its end, then add them.",
)
@takes_invocation
def command(invocation: Invocation, study: str, samples_file: str, is_lenient: bool, is_waiting: bool) -> None:
    """Add samples to a study that runs, or has ended.

    The new samples get the next numbers. Samples that are there keep their numbers and directories, and do not run
    again. A step that depends on all samples, such as a funnel, waits for the new ones, too. Once such a step has
    begun, a running study takes no more samples (see --wait). Of a study that has ended mrun queues a new run, in which
    such steps run again. STUDY is a study that the server knows, or its workspace.

    \b
    Examples:
      $ mrun add last --samplesfile more.npy
      $ mrun add studies/epidemic_20261122-124247 --samplesfile more.csv --wait
    """

    async def run() -> Added:
        async with invocation.session(may_start=True, is_lasting=True) as session:
            workspace = await find_workspace(session, study)
            while True:
                try:
                    return await add_samples(
                        session.store, session.seal, workspace, samples_file, is_lenient=is_lenient
                    )
                except StillRunningError as error:
                    if not is_waiting:
                        raise
                    await _wait(invocation, session, error.study)

    added = anyio.run(run)
    output, queued = invocation.output, added.queued
    output.warn(added.warnings)
    output.data(added)
    output.ids([queued.study])
    output.say(f"{queued.study}  {queued.name}: {counted(added.added, 'sample')} added, {queued.sample_count:,} in all"
               + (f"; run {added.run}" if added.is_new_run else ""))  # fmt: skip
    output.say(f"workspace  {queued.workspace}")
    output.note(f"run it:    {work_line(queued.queues)}")


async def _wait(invocation: Invocation, session: Session, study: str) -> None:
    async def studies() -> list[str]:
        return [study]

    with Display(invocation.output) as display:
        await wait_for_end(session, studies, display, lambda: True)
