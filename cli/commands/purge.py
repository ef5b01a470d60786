"""`mrun purge`: remove studies from the server."""

from __future__ import annotations

import anyio
import click

from mrun.cli.confirm import confirm
from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.selectors import parse_names
from mrun.cli.shown import counted


@click.command("purge")
@click.argument("study", metavar="[STUDY]", default="all")
@click.option("--queues", metavar="Q1,Q2", default="", help="Only studies that have steps on one of these queues.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@takes_invocation
def command(invocation: Invocation, study: str, queues: str, yes: bool) -> None:
    """Remove studies from the server.

    The server loses all that it has of them: queued samples, counters, plans. Samples that run are ended. Workspaces on
    disk stay as they are. STUDY is an id, the beginning of one, a workspace, `last` or `all`. Without STUDY this
    command removes all studies.

    \b
    Examples:
      $ mrun purge k3f9x2gb
      $ mrun purge --queues sim --yes
    """
    output = invocation.output
    wanted = set(parse_names(queues))

    async def run() -> list[str]:
        async with invocation.session() as session:
            found = []
            for one in await session.views.find(study):
                status = await session.views.status(one)
                if not wanted or any(wanted & set(step.queues) for step in status.steps):
                    found.append(status)
            if found:
                names = ", ".join(f"{status.study} ({status.name}, {status.state})" for status in found[:5])
                more = f" and {len(found) - 5} more" if len(found) > 5 else ""
                confirm(output, f"remove {counted(len(found), 'study', 'studies')}: {names}{more}", is_yes=yes)
            return [status.study for status in found if await session.store.purge(status.study)]

    removed = anyio.run(run)
    output.data({"studies": removed})
    output.ids(removed)
    output.say(f"{counted(len(removed), 'study', 'studies')} removed")
