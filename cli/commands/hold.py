"""`mrun hold`: claim nothing more of a study for now. `mrun release` is its other half."""

from __future__ import annotations

import anyio
import click

from mrun.cli.invocation import Invocation, Session, takes_invocation
from mrun.cli.selected import Answers, answer_for_each


@click.command("hold")
@click.argument("study", metavar="STUDY")
@takes_invocation
def command(invocation: Invocation, study: str) -> None:
    """Claim nothing more of a study until it is released.

    What runs goes on and is accounted; what it makes ready waits; `mrun release` ends it. STUDY is an id, the beginning
    of one, a workspace, `last` or `all`.

    \b
    Examples:
      $ mrun hold last
      $ mrun hold all
    """
    set_held(invocation, study, is_held=True)


def set_held(invocation: Invocation, study: str, *, is_held: bool) -> None:
    """Hold or release what a selector means, and say so."""

    async def run() -> Answers:
        async with invocation.session() as session:
            return await answer_for_each(session, study, hold)

    async def hold(session: Session, one: str) -> str:
        return await session.store.hold(one, is_held=is_held)

    answers = anyio.run(run)
    answers.show(invocation.output, {"ok": "held" if is_held else "released"})
