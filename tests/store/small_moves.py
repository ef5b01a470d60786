"""The store's scripts with chunks of 8 samples, 4 items of work a move, and a clock that is a counter.

So borders of chunks and continuations by other moves are met all the time, and a sequence can be repeated.
"""

from __future__ import annotations

import secrets

import msgspec
import redis as sync_redis

from mrun.engine.store.library import Library, body
from mrun.engine.store.schema import Keys

CHUNK = 8
CHANGES = {
    "local CHUNK = 1048576": f"local CHUNK = {CHUNK}",
    "local ITEMS = 200": "local ITEMS = 4",
    "local INSTANCE_RANGES_MOST = 16": "local INSTANCE_RANGES_MOST = 1",
    "local STREAM_RANGES_MOST = 1024": "local STREAM_RANGES_MOST = 1",
    "local LATER_MOST = 1000": "local LATER_MOST = 1",
    "local SCATTERED_CHUNK = 8192": "local SCATTERED_CHUNK = 8",
    "local LATE_MS = 250": "local LATE_MS = 2",
    "wall_us(_) local t = redis.call('TIME'); return t[1] * 1000000 + t[2]": (
        "wall_us(m) return redis.call('INCR', m.root .. 'time') * 1000"
    ),
}
WORKERS = ("w0", "w1", "w2")
QUEUES = ("q", "r")
encode = msgspec.msgpack.encode


def changed(changes: dict[str, str]) -> str:
    """The library's body with other limits."""
    text = body()
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def decode(raw, kind):
    return msgspec.msgpack.decode(raw, type=kind)


class Moves:
    """The moves on a namespace of its own, with small chunks and pieces, called as often as the test likes."""

    def __init__(self, client: sync_redis.Redis) -> None:
        self.client, self.library = client, Library(changed(CHANGES))
        client.execute_command("FUNCTION", "LOAD", "REPLACE", self.library.text)

    def begin(self) -> None:
        self.keys = Keys(f"t{secrets.token_hex(4)}")

    def run(self, move: str, *words):
        return self.client.execute_command("FCALL", self.library.function(move), 1, self.keys.root, *words)
