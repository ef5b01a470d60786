"""A proxy between mrun and its server, which breaks connections as networks do. Runs in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

#: What one read takes: every request and answer of mrun's fits, but for large plans.
_CHUNK_BYTES = 1 << 20


class Loss(NamedTuple):
    """A request that is lost: before the server did it, or after."""

    digest: str
    is_done: bool


class Proxy:
    """Listens on one socket, passes everything on to another one. All methods may be called from any thread."""

    def __init__(self, path: Path, server_path: Path) -> None:
        self.path = path
        self.url = f"unix://{path}"
        self._server_path = server_path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._listening: asyncio.Server | None = None
        self._links: set[_Link] = set()
        #: Half-open: connections stand, and nothing that is sent arrives.
        self.is_hole = False
        #: Each piece of data arrives so much later.
        self.delay_s = 0.0
        self._wanted: list[Loss] = []
        #: From a request that is lost on, everything else is lost, too: who waits for it can say nothing else.
        self.becomes_hole = False
        #: Whether a connection breaks when something on it is lost; otherwise it stands, half-open.
        self.breaks = True
        #: Digests of the scripts that were lost, as they were asked for.
        self.lost: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Break all connections; new ones may be made at once."""
        self._do(self._cut())

    def lose_reply(self, digest: str = "") -> None:
        """The next FCALL of this function (empty: of any) is done by the server, and its answer never arrives."""
        self._wanted.append(Loss(digest, is_done=True))

    def lose_request(self, digest: str = "") -> None:
        """The next FCALL of this function (empty: of any) never arrives at the server."""
        self._wanted.append(Loss(digest, is_done=False))

    def loses(self, request: bytes) -> Loss | None:
        """What becomes of a request, if it is to be lost; asked once for each request."""
        if b"FCALL" not in request[:64]:
            return None
        loss = next((one for one in self._wanted if one.digest.encode() in request[:200]), None)
        if loss is not None:
            self._wanted.remove(loss)
            self.is_hole = self.is_hole or self.becomes_hole
        return loss

    def _do(self, work: Coroutine[object, object, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=20)

    async def _listen(self) -> None:
        self._listening = await asyncio.start_unix_server(self._serve, str(self.path), limit=_CHUNK_BYTES)

    async def _close(self) -> None:
        assert self._listening is not None
        self._listening.close()
        await self._cut()
        await asyncio.gather(*(link.ended.wait() for link in self._links))

    async def _cut(self) -> None:
        for link in list(self._links):
            link.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, writer)
        self._links.add(link)
        try:
            await link.run(reader, self._server_path)
        finally:
            self._links.discard(link)
            link.ended.set()


class _Link:
    """One connection of a client, and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = client
        self._server: asyncio.StreamWriter | None = None
        self._losing: Loss | None = None
        self.ended = asyncio.Event()

    async def run(self, requests: asyncio.StreamReader, server_path: Path) -> None:
        """Until one of the two sides ends."""
        with contextlib.suppress(OSError):
            answers, self._server = await asyncio.open_unix_connection(str(server_path), limit=_CHUNK_BYTES)
            there = asyncio.ensure_future(self._pass(requests, self._server, self._on_request))
            back = asyncio.ensure_future(self._pass(answers, self._client, self._on_answer))
            await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            for one in (there, back):
                one.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
        self.cut()

    def cut(self) -> None:
        for side in (self._client, self._server):
            if side is not None:
                side.transport.abort()

    async def _pass(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, passes: Callable[[bytes], bool]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_CHUNK_BYTES):
                if self._proxy.delay_s:
                    await asyncio.sleep(self._proxy.delay_s)
                was_hole = self._proxy.is_hole
                if not passes(data) or was_hole:
                    continue
                sink.write(data)
                await sink.drain()

    def _on_request(self, data: bytes) -> bool:
        if self._losing is None:
            self._losing = self._proxy.loses(data)
        if self._losing is None or self._losing.is_done:
            return True
        self._lose(self._losing)
        return False

    def _on_answer(self, data: bytes) -> bool:
        if self._losing is None:
            return True
        if data.startswith(b"-ERR Function not found"):
            # Nothing was done. The function is loaded and called again, and nobody else's turn is to be taken.
            self._proxy.lose_reply(self._losing.digest)
            self._losing, self._proxy.is_hole = None, False
            return True
        # The server has done it: now the connection breaks, before its answer is through.
        self._lose(self._losing)
        return False

    def _lose(self, loss: Loss) -> None:
        self._proxy.lost.append(loss.digest)
        self._losing = None
        if self._proxy.breaks:
            self.cut()
