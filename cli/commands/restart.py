"""`mrun restart`: run what did not finish."""

from __future__ import annotations

import anyio
import click
import msgspec

from mrun.cli.commands.queue import ManyValues
from mrun.cli.invocation import Invocation, Session, takes_invocation
from mrun.cli.output import Output
from mrun.cli.shown import counted, work_line
from mrun.engine.errors import NotFoundError, UsageError
from mrun.engine.studies.reopen import Reopened, reopen, workspace_of
from mrun.engine.workspace.history import UNFINISHED, Selection


async def find_workspace(session: Session, selector: str) -> str:
    """The workspace of a selector: of a study that the server knows, or the path itself.

    Raises:
        NotFoundError: it is neither.
        UsageError: it means several studies.
    """
    try:
        studies = await session.views.find(selector)
        if len(studies) != 1:
            raise UsageError(f"'{selector}' means {len(studies)} studies.", hint="Name one of them.")
        return workspace_of(selector, (await session.views.status(studies[0])).workspace)
    except NotFoundError:
        return workspace_of(selector, None)


def reopen_selection(invocation: Invocation, selector: str, selection: Selection) -> Reopened:
    """Open the study of a selector again for a selection."""

    async def run() -> Reopened:
        async with invocation.session(may_start=True, is_lasting=True) as session:
            workspace = await find_workspace(session, selector)
            return await reopen(session.store, session.seal, workspace, selection)

    return anyio.run(run)


def say_reopened(output: Output, reopened: Reopened) -> None:
    """What runs again, and how."""
    queued = reopened.queued
    output.data(reopened)
    left = f", {reopened.left:,} that did not finish are left" if reopened.left else ""
    if queued is None:
        output.say(f"nothing to run: {counted(reopened.kept - reopened.left, 'script')} finished{left}")
        return
    output.ids([queued.study])
    output.say(f"{queued.study}  {queued.name}: run {reopened.run}, {counted(reopened.again, 'script')} to run, "
               f"{reopened.kept - reopened.left:,} finished{left}")  # fmt: skip
    output.say(f"workspace  {queued.workspace}")
    output.note(f"run it:    {work_line(queued.queues)}")


@click.command("restart")
@click.argument("workspace", metavar="WORKSPACE")
@click.option(
    *("--steps", "steps"),
    multiple=True,
    metavar="STEP …",
    cls=ManyValues,
    separator="",
    help="Only what did not finish of these steps, and what depends on it; takes several. [default: all]",
)
@takes_invocation
def command(invocation: Invocation, workspace: str, steps: tuple[str, ...]) -> None:
    """Run what did not finish of a study, in its workspace.

    Failed, dead, cancelled and skipped samples, those that never ran, and everything that depends on one of them. What
    has finished is not run again.

    With --steps everything else stays as it is: what failed has failed, what never ran does not run now, and a sample
    of these steps that waits for one of those is skipped. A later restart may have them.

    It reads the journals in the workspace, so it works also when the server has
    forgotten the study. A study that still runs is refused. WORKSPACE is its directory, or a study that the server
    knows.

    \b
    Examples:
      $ mrun restart studies/epidemic_20261122-124247
      $ mrun restart last
      $ mrun restart last --steps train plot
    """
    names = tuple(name for word in steps for name in word.split(","))
    selection = msgspec.structs.replace(UNFINISHED, steps=names)
    say_reopened(invocation.output, reopen_selection(invocation, workspace, selection))
