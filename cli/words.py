"""The options that every command takes, before its name or after: `mrun --json status` is `mrun status --json`.

Nothing here knows a server: `mrun --help` must be quick.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import msgspec


class Words(msgspec.Struct):
    """What was said with the common options, on either side of the command's name."""

    broker: str | None = None
    namespace: str | None = None
    durability: str | None = None
    is_json: bool = False
    is_quiet: bool = False


def _note(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    assert option.name is not None
    # An option that was not given says nothing: it may stand on the other side of the command's name.
    if value:
        setattr(ctx.ensure_object(Words), option.name, value)


def common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the common options; they arrive in the context's `Words`, not as arguments."""
    for decorate in (
        click.option(
            "-q", "--quiet", "is_quiet", is_flag=True, expose_value=False, callback=_note, help="Print ids only."
        ),
        click.option(
            *("--json", "is_json"), is_flag=True, expose_value=False, callback=_note,
            help="Print one JSON value instead of text.",
        ),
        click.option(
            *("--durability",), metavar="HOW", expose_value=False, callback=_note,
            help="strict: what is queued, and nodes that ended, are on the server's disk at once. [default: everysec]",
        ),
        click.option(
            *("--namespace",), metavar="NAME", expose_value=False, callback=_note,
            help="Prefix of all keys on the server. [default: mrun]",
        ),
        click.option(
            *("--broker",), metavar="URL", expose_value=False, callback=_note,
            help="Server to use: redis://host:port, unix:///path. [default: your own]",
        ),
    ):  # fmt: skip
        function = decorate(function)
    return function
