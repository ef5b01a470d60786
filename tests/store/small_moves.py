"""The store's scripts with chunks of 8 samples, 4 items of work a move, and a clock that is a counter.

So borders of chunks and continuations by other moves are met all the time, and a sequence can be repeated.
"""

from __future__ import annotations

import secrets

import msgspec
import redis as sync_redis

from mrun.engine.store.keys import Keys
from mrun.engine.store.store import _move_text

CHUNK = 8
CHANGES = {
    "local CHUNK = 1048576": f"local CHUNK = {CHUNK}",
    "local ITEMS = 200": "local ITEMS = 4",
    "STREAM_RANGES_MOST, LATER_MOST = 16, 1024, 1000": "STREAM_RANGES_MOST, LATER_MOST = 1, 1, 1",
    "local LOOSE_CHUNK = 8192": "local LOOSE_CHUNK = 8",
    "local LATE_MS = 250": "local LATE_MS = 2",
    "local t = call('TIME'); return t[1] * 1000000 + t[2]": "return call('INCR', root .. 'clock') * 1000",
}
MOVES = ("submit", "commit", "claim", "settle", "hand_back", "beat", "reclaim", "leave", "cancel", "purge", "grow")
WORKERS = ("w0", "w1", "w2")
QUEUES = ("q", "r")
encode = msgspec.msgpack.encode


def decode(raw, kind):
    return msgspec.msgpack.decode(raw, type=kind)


class Moves:
    """The moves on a namespace of its own, with small chunks and pieces, called as often as the test likes."""

    def __init__(self, client: sync_redis.Redis) -> None:
        self.client, self.scripts = client, {}
        for move in MOVES:
            text = _move_text(move)
            for old, new in CHANGES.items():
                assert text.count(old) == 1
                text = text.replace(old, new)
            self.scripts[move] = client.register_script(text)

    def begin(self) -> None:
        self.keys = Keys(f"t{secrets.token_hex(4)}")

    def run(self, move: str, *words):
        return self.scripts[move](keys=[self.keys.root], args=words)
