"""`mrun release`: let a study that was held go on."""

from __future__ import annotations

import click

from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.selectors import change_studies


@click.command("release")
@click.argument("study", metavar="STUDY")
@takes_invocation
def command(invocation: Invocation, study: str) -> None:
    """Let a study that was held go on.

    \b
    Examples:
      $ mrun release last
      $ mrun release all
    """
    change_studies(invocation, study, lambda session, one: session.store.hold(one, is_held=False), "released")
