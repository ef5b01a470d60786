"""`mrun queue`: a spec becomes a study that workers can claim."""

from __future__ import annotations

import click
import msgspec

from mrun.cli.invocation import Invocation, takes_words
from mrun.cli.options import spec_options, turn_options
from mrun.cli.orders import SpecWords, check_order, dry_option, queue_checked, read_order, run_dry
from mrun.engine.studies.enqueue import prepare


class QueueWords(SpecWords, frozen=True, kw_only=True):
    """The arguments and options of `mrun queue`."""

    priority: int
    after: str | None
    is_dry: bool


@click.command("queue")
@spec_options
@turn_options
@dry_option
@takes_words(QueueWords)
def command(invocation: Invocation, words: QueueWords) -> None:
    """Queue a study, for workers to run.

    Makes the study's workspace, generates its samples if the spec says how, and puts it on the server. Returns at once,
    however many samples there are; `mrun work` runs them.

    \b
    Examples:
      $ mrun queue spec.yaml
      $ mrun queue spec.yaml --vars N_SAMPLES=1000 ITER=2
      $ mrun queue spec.yaml -o /scratch/me
      $ mrun queue spec.yaml --samplesfile samples.npy --dry
      $ mrun queue spec.yaml --pgen pgen.py --pargs SEED:7 COUNT:20
      $ mrun queue spec.yaml --priority 10 --after last
    """
    order = msgspec.structs.replace(read_order(words), priority=words.priority)
    checked = check_order(order)
    if words.is_dry:
        run_dry(invocation, checked)
    else:
        queue_checked(invocation, checked, prepare, words.after)
