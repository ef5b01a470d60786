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

    What runs goes on and is accounted; what it makes ready waits; `mrun release` ends it. STUDY is an id, the beginning
    of one, a workspace, `last` or `all`.

    \b
    Examples:
      $ mrun hold last
      $ mrun hold all
    """
    change_studies(invocation, study, lambda session, one: session.store.hold(one, is_held=True), "held")
