"""`mrun forget`: remove studies that have ended from the server."""

from __future__ import annotations

import click

from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.selectors import change_studies


@click.command("forget")
@click.argument("study", metavar="STUDY")
@takes_invocation
def command(invocation: Invocation, study: str) -> None:
    """Remove studies that have ended from the server.

    Their counters go. Their workspaces stay, and `mrun restart WORKSPACE` can still open them. Studies that have not
    ended stay as they are. The server forgets a study by itself seven days after its end.

    \b
    Examples:
      $ mrun forget k3f9x2gb
      $ mrun forget all
    """
    change_studies(invocation, study, lambda session, one: session.store.forget(one), "forgotten")
