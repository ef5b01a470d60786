"""`mrun release`: let a study that was held go on."""

from __future__ import annotations

import click

from mrun.cli.commands.hold import set_held
from mrun.cli.invocation import Invocation, takes_invocation


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
    set_held(invocation, study, is_held=False)
