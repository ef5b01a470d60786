"""Waiting for work without polling: one blocking read, on a connection of its own, with a watchdog."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import redis.asyncio

from mrun.engine.errors import MrunError
from mrun.engine.store.connect import translate_errors, url_of
from mrun.engine.store.schema import Keys

#: How much longer than asked a read may take before its connection is believed dead.
_WATCHDOG_S = 5.0
#: Pause after an error, so that a server that is away is not hammered.
_PAUSE_S = 1.0


class Bells:
    """Listens for new work on some queues.

    Args:
        client: a client that nothing else uses, without a socket timeout shorter than the waits.
        worker: whose own bell is listened to, too: it rings when somebody asks it to stop.
    """

    def __init__(self, client: redis.asyncio.Redis, namespace: str, queues: Sequence[str], worker: str) -> None:
        self._client = client
        keys = Keys(namespace)
        self._bells = [keys.worker_bell(worker), *(keys.bell(queue) for queue in queues)]

    async def wait(self, timeout_s: float) -> None:
        """Until a bell rings or the time is over. A lost token costs one time-out; errors are answered by a pause.

        No error at all is raised: what is wrong with the server, the next claim finds, and waits or says it.
        """
        try:
            with translate_errors(url_of(self._client)), anyio.fail_after(timeout_s + _WATCHDOG_S):
                await self._client.blpop(self._bells, timeout=timeout_s)
        except (MrunError, TimeoutError):
            await anyio.sleep(_PAUSE_S)
