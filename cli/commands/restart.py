"""`mrun restart`: run what did not finish."""

from __future__ import annotations

import click
import msgspec

from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.options import steps_option
from mrun.cli.reopening import reopen_selection
from mrun.engine.workspace.history import UNFINISHED


@click.command("restart")
@click.argument("workspace", metavar="WORKSPACE")
@steps_option("Only what did not finish of these steps, and what depends on it; takes several. [default: all]")
@takes_invocation
def command(invocation: Invocation, workspace: str, steps: tuple[str, ...]) -> None:
    """Run what did not finish of a study, in its workspace.

    It runs failed, dead, cancelled and skipped samples, samples that never ran, and everything that depends on one of
    them. What has finished does not run again.

    With --steps all other steps stay as they are: what failed stays failed, and what never ran does not run now. A
    sample of these steps that waits for one of those is skipped. You can run them with a later restart.

    It reads the journals in the workspace, so it works even if the server has forgotten the study. It refuses a study
    that still runs. WORKSPACE is the study's directory, or a study that the server knows.

    \b
    Examples:
      $ mrun restart studies/epidemic_20261122-124247
      $ mrun restart last
      $ mrun restart last --steps train plot
    """
    names = tuple(name for word in steps for name in word.split(","))
    selection = msgspec.structs.replace(UNFINISHED, steps=names)
    reopen_selection(invocation, workspace, selection)
