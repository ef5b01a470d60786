"""`mrun submit`: a command becomes a study that workers can claim."""

from __future__ import annotations

import os

import click
import msgspec

from mrun.cli.invocation import Invocation, current_dir, takes_words
from mrun.cli.options import turn_options
from mrun.cli.orders import queue_checked
from mrun.engine.errors import UsageError
from mrun.engine.studies.enqueue import Order
from mrun.engine.studies.submission import Submission, check_submission, prepare_submission
from mrun.engine.table.array import parse_array


class SubmitWords(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments and options of `mrun submit`."""

    name: str
    array: str | None
    samples_file: str | None
    columns: str | None
    queue: str
    priority: int
    after: str | None
    walltime: str | None
    max_fails: str | None
    output_path: str | None
    words: tuple[str, ...]


# The first word that is no option begins the command: from there on nothing is an option of ours.
@click.command("submit", context_settings={"allow_interspersed_args": False})
@click.option("--name", required=True, metavar="NAME", help="Name of the study, and beginning of its workspace's.")
@click.option("--array", metavar="IDS", help="Run once for each of these, such as 1-100, 0-99:10 or 1,5,7-9.")
@click.option(
    *("--samplesfile", "samples_file"),
    metavar="FILE",
    type=click.Path(),
    help="Run once for each row of this table, .npy, .csv or .tab; copied into merlin_info.",
)
@click.option(
    *("--column-labels", "columns"),
    metavar="A,B,…",
    help="Environment variables that hold the columns of --samplesfile. [default: C1,C2,…]",
)
@click.option("--queue", metavar="Q", default="merlin", show_default=True, help="Queue that workers take it from.")
@turn_options
@click.option(
    *("--walltime", "--time-limit"),
    metavar="TIME",
    help="End a script that runs longer, as failed: [[[d:]h:]m:]s, or seconds. [default: no limit]",
)
@click.option(
    "--max-fails", metavar="N", help="Stop the study when more scripts than this failed: 10, or 5%. [default: never]"
)
@click.option("-o", "--output-path", metavar="DIR", help="Parent of the study's workspace. [default: here]")
@click.argument("words", metavar="[--] COMMAND…", nargs=-1, type=click.UNPROCESSED)
@takes_words(SubmitWords)
def command(invocation: Invocation, given: SubmitWords) -> None:
    """Queue a command as a study, without a YAML.

    COMMAND runs once. With --array it runs once for each id; the id is in the variable MRUN_ARRAY_ID, and the number of
    ids in MRUN_ARRAY_COUNT. With --samplesfile it runs once for each row of the table; the row's cells are in C1, C2,
    …, or in the variables that --column-labels names. MRUN_SAMPLE_ID is the number of the run, from 0.

    COMMAND runs in the directory where you submit it, with the variables of its worker. Its arguments stay as they are:
    for pipes and variables give the command to a shell. What it prints is in NAME_<time>/run/…/run.out and run.err. For
    status, retry, cancel and so on the study is like any other. Its spec is in the workspace's merlin_info.

    \b
    Examples:
      $ mrun submit --name hello -- ./hello.sh 'two words'
      $ mrun submit --name sweep --array 1-100 --walltime 10:00 -- bash -c './simulate --seed $MRUN_ARRAY_ID'
      $ mrun submit --name fit --samplesfile points.csv --column-labels X,Y -- bash -c 'python3 fit.py "$X" "$Y"'
      $ mrun submit --name plot --after last -- python3 plot.py
    """
    _check(given)
    submission = Submission(
        given.name,
        given.words,
        current_dir(),
        parse_array(given.array) if given.array is not None else None,
        given.samples_file,
        tuple(label.strip() for label in given.columns.split(",")) if given.columns is not None else (),
        given.queue,
        given.walltime,
        given.max_fails,
    )
    parent = os.environ.get("MRUN_STUDY", "")
    order = Order("", output_path=given.output_path, parent_study=parent, priority=given.priority)
    queue_checked(invocation, check_submission(submission, order, os.environ), prepare_submission, given.after)


def _check(given: SubmitWords) -> None:
    if not given.words:
        raise UsageError(
            "There is no command to run.", hint="For example: mrun submit --name sweep --array 1-100 -- ./simulate.sh"
        )
    if given.array is not None and given.samples_file is not None:
        hint = "Take --samplesfile: the number of the row, from 0, is in MRUN_SAMPLE_ID."
        raise UsageError("--array and --samplesfile can't be given both.", hint=hint)
    if given.columns is not None and given.samples_file is None:
        hint = "For example: --samplesfile points.csv --column-labels X,Y"
        raise UsageError("--column-labels was given without --samplesfile.", hint=hint)
