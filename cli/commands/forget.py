"""`mrun forget`: remove studies that have ended from the server."""

from __future__ import annotations

import anyio
import click

from mrun.cli.invocation import Invocation, Session, takes_invocation
from mrun.cli.selected import Answers, answer_for_each


@click.command("forget")
@click.argument("study", metavar="STUDY")
@takes_invocation
def command(invocation: Invocation, study: str) -> None:
    """Remove studies that have ended from the server.

    Their counters go; their workspaces stay, and `mrun restart WORKSPACE` can still open them. Studies that have not
    ended are left as they are. By itself the server forgets a study seven days after its end.

    \b
    Examples:
      $ mrun forget k3f9x2gb
      $ mrun forget all
    """

    async def run() -> Answers:
        async with invocation.session() as session:
            return await answer_for_each(session, study, forget)

    async def forget(session: Session, one: str) -> str:
        return await session.store.forget(one)

    anyio.run(run).show(invocation.output, {"ok": "forgotten"})
