"""One invocation of `mrun`: its global options, and how it gets to a server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from mrun.cli.output import Output
from mrun.engine.settings import Settings, load_settings
from mrun.engine.store.connect import Broker, check_server, find_broker, open_broker
from mrun.engine.store.seal import Seal, load_seal
from mrun.engine.store.store import Store
from mrun.engine.store.views import Views

#: How long a command, other than a worker, tries to reach a server that is away.
COMMAND_PATIENCE_S = 2.0


class Session:
    """A server that answered, and what can be done with it."""

    def __init__(self, broker: Broker, store: Store, seal: Seal) -> None:
        self.broker = broker
        self.store = store
        self.seal = seal
        self.views = Views(store, seal)


class Invocation:
    """What every command gets."""

    def __init__(self, *, options: Mapping[str, str | None], output: Output) -> None:
        self._options = options
        self.output = output

    def settings(self, **options: str | None) -> Settings:
        """All settings; `options` are those that a command has beside the global ones."""
        return load_settings({**self._options, **options}, os.environ, Path.cwd())

    def broker(self, settings: Settings, *, may_start: bool) -> Broker:
        """The server to use; started if it is the user's own, does not run, and the command may start it."""
        return find_broker(settings, os.environ, may_start=may_start)

    @asynccontextmanager
    async def session(self, *, may_start: bool = False, broker: Broker | None = None) -> AsyncIterator[Session]:
        """A connection for one command, closed at the end.

        Raises:
            BrokerError: no server, or one that is unfit.
        """
        settings = self.settings()
        broker = broker or self.broker(settings, may_start=may_start)
        client = await open_broker(broker)
        try:
            self.output.warn((await check_server(client)).warnings)
            store = Store(client, settings.namespace, patience_s=COMMAND_PATIENCE_S)
            yield Session(broker, store, load_seal(settings.config_dir))
        finally:
            await client.aclose()
