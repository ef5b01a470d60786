"""`mrun hold`: claim nothing more of a study for now. `mrun release` is its other half."""

from __future__ import annotations

import click

from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.selectors import change_studies


@click.command("hold")
@click.argument("study", metavar="STUDY")
@takes_invocation
def command(invocation: Invocation, study: str) -> None:
    """Claim nothing more of a study until it is released.

    Samples that run go on and are counted. Samples that become ready wait until `mrun release`. STUDY is an id, the
    beginning of one, a workspace, `last` or `all`.

    \b
    Examples:
      $ mrun hold last
      $ mrun hold all
    """
    change_studies(invocation, study, lambda session, one: session.store.hold(one, is_held=True), "held")
