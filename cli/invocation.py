"""One invocation of `mrun`: its global options, and how it gets to a server."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import click

from mrun.cli.options import CommonWords, common_options
from mrun.cli.output import Output
from mrun.engine.errors import UsageError
from mrun.engine.settings import Settings, load_settings
from mrun.engine.store.connect import Broker, find_broker, greeted
from mrun.engine.store.session import Session, open_session

#: The arguments and options of a command that has many.
Words = TypeVar("Words")


class Invocation:
    """What every command gets."""

    def __init__(self, words: CommonWords) -> None:
        self._options = {"broker": words.broker, "namespace": words.namespace, "durability": words.durability}
        self.output = Output(is_json=words.is_json, is_quiet=words.is_quiet)

    def settings(self, **options: str | None) -> Settings:
        """All settings; `options` are those that a command has beside the global ones."""
        return load_settings({**self._options, **options}, os.environ, Path(current_dir()))

    def broker(self, settings: Settings, *, may_start: bool) -> Broker:
        """The server to use; started if it is the user's own, does not run, and the command may start it."""
        return find_broker(settings, os.environ, may_start=may_start)

    def reach_broker(self, settings: Settings) -> Broker:
        """The server to use, which answers and is fit; the user's own is started if need be.

        Raises:
            BrokerError: no server, or one that is unfit.
        """
        broker = self.broker(settings, may_start=True)

        async def look() -> None:
            async with self.session(broker=broker, is_lasting=True):
                pass

        anyio.run(greeted, look)
        return broker

    def session(
        self, *, may_start: bool = False, broker: Broker | None = None, is_lasting: bool = False
    ) -> AbstractAsyncContextManager[Session]:
        """A connection for one command; see `open_session`."""
        settings = self.settings()
        broker = broker or self.broker(settings, may_start=may_start)
        return open_session(settings, broker, self.output.warn, is_lasting=is_lasting)


def takes_invocation(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command its `Invocation` as the first argument, and the common options."""

    @common_options
    @click.pass_context
    @functools.wraps(function)
    def command(ctx: click.Context, /, *arguments: Any, **named: Any) -> Any:
        return function(Invocation(ctx.ensure_object(CommonWords)), *arguments, **named)

    return command


def takes_words(kind: Callable[..., Words]) -> Callable[[Callable[[Invocation, Words], Any]], Callable[..., Any]]:
    """Give a command its `Invocation`, and all its arguments and options in one struct, whose fields have their names.

    For commands with more of them than a function should have parameters.
    """

    def decorate(function: Callable[[Invocation, Words], Any]) -> Callable[..., Any]:
        @takes_invocation
        @functools.wraps(function)
        def command(invocation: Invocation, /, **named: Any) -> Any:
            return function(invocation, kind(**named))

        return command

    return decorate


def current_dir() -> str:
    """The current directory.

    Raises:
        UsageError: it was removed, or its name is no text.
    """
    try:
        path = os.getcwd()
        path.encode()
    except FileNotFoundError as error:
        raise UsageError("The current directory does not exist any more.", hint="Change to another one.") from error
    except UnicodeEncodeError as error:
        message = f"The path of the current directory, {path!r}, holds bytes that are no UTF-8."
        raise UsageError(message, hint="Rename it, or change to another one.") from error
    return path
