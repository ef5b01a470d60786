"""`mrun example`: the studies that are shipped with mrun, to be copied and changed."""

from __future__ import annotations

import importlib.resources
import os
import shutil
from pathlib import Path

import click

from mrun.cli.invocation import Invocation, takes_invocation
from mrun.engine.errors import MrunError, UsageError, WorkspaceError
from mrun.engine.nearest import nearest_hint

#: Name → what it shows, in the order in which to read them. Each is a folder of `examples/`.
EXAMPLES = {
    "hello": "parameters, a funnel, and a step in Python",
    "samples": "a table of samples, column labels, and gathering results with MERLIN_GLOB_PATH",
    "chain": "steps that follow each other sample by sample, and a diamond",
    "restart": "RETRY, and RESTART from a checkpoint",
    "iterate": "a last step that queues the next iteration",
    "slurm": "parallel programs on the nodes of a Slurm allocation, with a batch script",
    "flux": "the same in a Flux instance",
    "epidemic": "all of it: 2,000 simulations, two surrogates and a figure (needs matplotlib)",
}

#: How those are run that need a scheduler.
_RUN_BY = {"slurm": "cd {path} && sbatch run.sbatch", "flux": "cd {path} && flux batch run.sh"}


@click.command("example")
@click.argument("name", metavar="[list|NAME]", default="list")
@click.option(
    "-p", "--path", type=click.Path(path_type=Path), metavar="DIR",
    help="Where to put it: a new directory, or an empty one. [default: ./NAME]",
)  # fmt: skip
@takes_invocation
def command(invocation: Invocation, name: str, path: Path | None) -> None:
    """List the examples, or copy one of them.

    Each example is a directory with a README.md and a commented spec.yaml. It runs within seconds: on this machine, or,
    if it is called after a scheduler, in an allocation of that scheduler. Without NAME this command lists the examples.
    It never overwrites a file.

    \b
    Examples:
      $ mrun example list
      $ mrun example hello
      $ mrun example samples -p /tmp/try
    """
    output = invocation.output
    if name == "list":
        if path is not None:
            raise UsageError("The list takes no --path.", hint="mrun example NAME -p DIR copies an example.")
        output.data([{"name": one, "shows": shows} for one, shows in EXAMPLES.items()])
        output.ids(EXAMPLES)
        output.table(("example", "shows"), list(EXAMPLES.items()))
        return
    if name not in EXAMPLES:
        raise UsageError(f"There is no example '{name}'.", hint=nearest_hint(name, EXAMPLES))
    target = path or Path(name)
    _copy(_source(name), target)
    files = sorted(file.name for file in target.iterdir())
    output.data({"example": name, "path": str(target.absolute()), "files": files})
    output.ids([str(target)])
    output.say(f"{name} is in {target}: {', '.join(files)}")
    output.note(f"run it:  {_RUN_BY.get(name, 'mrun run {path}/spec.yaml').format(path=target)}")


def _source(name: str) -> Path:
    """The example's folder in the package, which is always a real directory: mrun is never run from a zip file."""
    source = Path(str(importlib.resources.files("mrun"))) / "examples" / name
    if not source.is_dir():
        raise MrunError(f"The example '{name}' was not installed: there is no '{source}'.")
    return source


def _copy(source: Path, target: Path) -> None:
    """Copy into a directory that is new or empty.

    Raises:
        UsageError: there is something.
        WorkspaceError: it can't be made.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.mkdir()
        except FileExistsError:
            if not target.is_dir() or os.listdir(target):
                message = f"'{target}' is there already, and nothing is overwritten."
                raise UsageError(message, hint="Choose a new directory with -p DIR.") from None
        # An example is flat, and folders in it are what running it there left behind. Contents only: what a package
        # manager installed read-only becomes files that can be changed.
        for file in sorted(source.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                shutil.copyfile(file, target / file.name)
    except OSError as error:
        message = f"The example can't be put into '{target}': {error.strerror or error}."
        raise WorkspaceError(message, hint="Choose another directory with -p DIR.") from error
