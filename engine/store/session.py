"""One command's connection: a server that answered and is fit, and what can be done with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from mrun.engine.settings import Settings
from mrun.engine.store.connect import Broker, check_server, open_broker
from mrun.engine.store.durability import FlushNeeds, flush_needs
from mrun.engine.store.seal import Seal, load_seal
from mrun.engine.store.store import Store
from mrun.engine.store.views import Views

#: How long a command, other than a worker, tries to reach a server that is away.
COMMAND_PATIENCE_S = 2.0


class Session:
    """A server that answered, and what can be done with it."""

    def __init__(self, settings: Settings, broker: Broker, store: Store, seal: Seal) -> None:
        self.settings = settings
        self.broker = broker
        self.store = store
        self.seal = seal
        self.views = Views(store, seal)


@asynccontextmanager
async def open_session(
    settings: Settings, broker: Broker, warn: Callable[[Iterable[str]], None], *, is_lasting: bool = False
) -> AsyncIterator[Session]:
    """A connection for one command, closed at the end.

    Args:
        warn: is told what may go wrong with this server.
        is_lasting: what is queued in it lasts as the setting `durability` says.

    Raises:
        BrokerError: the server does not answer, or is unfit.
    """
    client = await open_broker(broker)
    try:
        warn((await check_server(client)).warnings)
        flush = await flush_needs(client, broker, settings) if is_lasting else FlushNeeds()
        store = Store(client, settings.namespace, patience_s=COMMAND_PATIENCE_S, flush=flush)
        yield Session(settings, broker, store, load_seal(settings.config_dir))
    finally:
        await client.aclose()
