"""`mrun priority`: which study's samples are claimed first."""

from __future__ import annotations

import click

from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.selectors import change_studies


@click.command("priority", context_settings={"ignore_unknown_options": True})
@click.argument("study", metavar="STUDY")
@click.argument("priority", metavar="N", type=click.IntRange(-1000, 1000))
@takes_invocation
def command(invocation: Invocation, study: str, priority: int) -> None:
    """Set which study's samples are claimed first.

    Workers claim samples of a study with a higher N (-1000 to 1000, at first 0) before those of other studies on the
    same queue. Studies with the same N take turns.

    \b
    Examples:
      $ mrun priority last 10
      $ mrun priority k3f9x2gb 0
    """
    change_studies(
        invocation, study, lambda session, one: session.store.prioritize(one, priority), f"has priority {priority}"
    )
