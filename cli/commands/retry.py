"""`mrun retry`: run a selection of samples again."""

from __future__ import annotations

import click

from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.options import sample_options
from mrun.cli.reopening import reopen_selection
from mrun.cli.selectors import parse_ranges
from mrun.engine.workspace.history import Fate, Selection


@click.command("retry")
@click.argument("study", metavar="STUDY")
@click.option("--failed", "is_failed", is_flag=True, help="Samples that failed. [default]")
@click.option("--dead", "is_dead", is_flag=True, help="Samples that took down too many workers, or were cancelled.")
@sample_options
@takes_invocation
def command(
    invocation: Invocation, study: str, is_failed: bool, is_dead: bool, steps: tuple[str, ...], samples: str | None
) -> None:
    """Run a selection of samples again, and what depends on them.

    All other samples keep their results. Without an option this command selects the samples that failed. --step or
    --samples alone select samples whether they finished or not. STUDY is a study that the server knows, or its
    workspace.

    \b
    Examples:
      $ mrun retry last
      $ mrun retry last --step train
      $ mrun retry studies/epidemic_20261122-124247 --step simulate --samples 1-10,17
    """
    ranges = None if samples is None else tuple(parse_ranges(samples))
    fates = _fates(is_failed, is_dead, is_whole=bool(steps) or ranges is not None)
    reopen_selection(invocation, study, Selection(fates, steps, ranges))


def _fates(is_failed: bool, is_dead: bool, *, is_whole: bool) -> tuple[Fate, ...]:
    """Without a word about it: all of what was named, else what failed."""
    if not is_failed and not is_dead:
        return tuple(Fate) if is_whole else (Fate.FAILED, Fate.FAILED_BLOCKING)
    failed = (Fate.FAILED, Fate.FAILED_BLOCKING) if is_failed else ()
    return (*failed, Fate.BEGUN) if is_dead else failed
