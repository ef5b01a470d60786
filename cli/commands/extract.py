"""`mrun extract`: what samples printed, as files."""

from __future__ import annotations

from pathlib import Path

import click

from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.options import sample_options
from mrun.cli.selectors import parse_ranges, plan_of
from mrun.cli.shown import counted
from mrun.engine.errors import WorkspaceError
from mrun.engine.workspace.outputs import Source, sample_outputs


@click.command("extract")
@click.argument("study", metavar="STUDY")
@sample_options
@click.option(
    "-o", "--output", "target", metavar="DIR", required=True, type=click.Path(file_okay=False, path_type=Path),
    help="Where to write; made if it is not there.",
)  # fmt: skip
@takes_invocation
def command(invocation: Invocation, study: str, steps: tuple[str, ...], samples: str | None, target: Path) -> None:
    """Write what samples printed into files.

    DIR gets the files that a study with full files has: a directory for each step, combination and sample, with .out
    and .err in it. Files of these names that are there already are replaced. STUDY is a study that the server knows, or
    its workspace, which needs no server.

    \b
    Examples:
      $ mrun extract last -o outputs
      $ mrun extract studies/epidemic_20261122-124247 --step simulate --samples 1-10,17 -o outputs
    """
    ranges = None if samples is None else parse_ranges(samples)
    sample_count = file_count = 0
    for one in sample_outputs(plan_of(invocation, study), steps, ranges):
        sample_count += 1
        for source, ending in ((one.out, "out"), (one.err, "err")):
            if source is not None:
                _write(source, target / one.directory, f"{one.instance}.{ending}")
                file_count += 1
    invocation.output.data({"samples": sample_count, "files": file_count, "directory": str(target)})
    invocation.output.say(f"{counted(file_count, 'file')} of {counted(sample_count, 'sample')} in {target}")


def _write(source: Source, directory: Path, name: str) -> None:
    path = directory / name
    if path.exists() and path.samefile(source.path):
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for data in source.chunks():
                file.write(data)
    except OSError as error:
        raise WorkspaceError(f"'{path}' can't be written: {error.strerror}.") from error
