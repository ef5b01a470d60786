"""`mrun priority`: which study's samples are claimed first."""

from __future__ import annotations

import anyio
import click

from mrun.cli.invocation import Invocation, Session, takes_invocation
from mrun.cli.selected import Answers, answer_for_each


@click.command("priority", context_settings={"ignore_unknown_options": True})
@click.argument("study", metavar="STUDY")
@click.argument("priority", metavar="N", type=click.IntRange(-1000, 1000))
@takes_invocation
def command(invocation: Invocation, study: str, priority: int) -> None:
    """Set which study's samples are claimed first.

    Samples of a study with a higher N (-1000 to 1000, at first 0) are claimed before those of others on the same queue;
    studies with the same N take turns.

    \b
    Examples:
      $ mrun priority last 10
      $ mrun priority k3f9x2gb 0
    """

    async def run() -> Answers:
        async with invocation.session() as session:
            return await answer_for_each(session, study, prioritize)

    async def prioritize(session: Session, one: str) -> str:
        return await session.store.prioritize(one, priority)

    anyio.run(run).show(invocation.output, {"ok": f"has priority {priority}"})
