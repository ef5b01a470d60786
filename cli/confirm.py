"""Asking before something is destroyed."""

from __future__ import annotations

import sys

import click

from mrun.cli.output import Output
from mrun.engine.errors import UsageError


def confirm(output: Output, what: str, *, is_yes: bool) -> None:
    """Say what would be touched; ask on a terminal, need --yes otherwise.

    Raises:
        UsageError: nobody can be asked, and --yes was not given.
        click.Abort: the answer was no.
    """
    if is_yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"This would {what}, and there is no terminal to ask on.", hint="Add --yes.")
    output.tell(f"This will {what}.")
    click.confirm("Go on?", abort=True, err=True)
