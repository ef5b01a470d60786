"""`durability = strict`: what must be awaited until a change is on the server's disk, and the waiting.

A server that flushes its append-only file at every write (`appendfsync always`) answers nothing sooner, so nothing is
awaited there; the user's own server is set to that. Elsewhere WAITAOF is asked at commit points, if it can be believed.
Refused: WAITAOF on Valkey with `appendfsync everysec`, which is answered before the flush (`connect.ServerCheck`).
"""

from __future__ import annotations

import time

import anyio
import anyio.to_thread
import msgspec
import redis.asyncio
import redis.exceptions

from mrun.engine.errors import BrokerError
from mrun.engine.logging import log
from mrun.engine.server.own import flush_each_write
from mrun.engine.settings import Settings
from mrun.engine.store.connect import Broker, ServerCheck, check_server, translate_errors, url_of

#: One question lasts at most so long, twice: less than a connection waits for an answer.
_ASK_MS = 2000
#: How long a command waits until it says that a change is not on the disk. `everysec` may be two seconds late.
FLUSH_PATIENCE_S = 10.0

#: A write and nothing else, for WAITAOF and WAIT to wait for; also on a server that is full.
_MARK = "#!lua flags=allow-oom\nreturn redis.call('SET', KEYS[1], '', 'EX', 60)"


class FlushNeeds(msgspec.Struct, frozen=True):
    """What to wait for at a commit point. Neither: the server answers nothing before it is on its disk."""

    disk: bool = False
    #: That one replica has it, too: what a server with replicas acknowledged is lost if another one is promoted first.
    replica: bool = False


async def flush_needs(client: redis.asyncio.Redis, broker: Broker, settings: Settings) -> FlushNeeds:
    """What `durability` asks of this server. The user's own one is set to flush every write, if it does not.

    Raises:
        BrokerError: it is to be strict, and the server can't do it.
    """
    if settings.durability != "strict":
        return FlushNeeds()
    check = await check_server(client)
    if broker.is_own and check.flush_policy != "always":
        await anyio.to_thread.run_sync(flush_each_write, settings)
        check = await check_server(client)
    if fault := _fault(check):
        raise _refusal(url_of(client), fault)
    return FlushNeeds(disk=check.flush_policy != "always", replica=check.has_replica)


def _fault(check: ServerCheck) -> str:
    if not check.is_append_only:
        return "keeps no append-only file"
    if check.flush_policy == "always":
        return ""
    if check.flush_policy == "no":
        settings = "appendfsync or no-appendfsync-on-rewrite"
        return f"leaves it to its system when its append-only file is on the disk ({settings})"
    if check.can_wait_for_disk:
        return ""
    policy = f"with appendfsync {check.flush_policy}" if check.flush_policy else "which does not tell its appendfsync"
    return f"is {check.product} {check.version} {policy}, and can't tell when a change is on its disk"


def _refusal(url: str, fault: str) -> BrokerError:
    return BrokerError(
        f"Durability 'strict' can't be kept: the server at {url} {fault}.",
        hint="Set it to flush every write (`CONFIG SET appendonly yes`, `CONFIG SET appendfsync always`; if it is your "
        "own, `mrun server start --durability strict` on its host), or say --durability everysec.",
    )


class Flusher:
    """Waits at commit points for what was written before, by whomever.

    Args:
        patience_s: infinite: wait for ever, and say so in the log once; else `FLUSH_PATIENCE_S`.
    """

    def __init__(self, client: redis.asyncio.Redis, root: str, needs: FlushNeeds, patience_s: float) -> None:
        self._client, self._mark, self._needs = client, f"{root}mark", needs
        self._is_endless = patience_s == float("inf")

    async def wait(self) -> None:
        """Until all that was acknowledged before this call is where it is to be. At once if nothing is needed.

        Raises:
            BrokerAwayError: the server went away; it may come back without what was written.
            BrokerError: it took too long.
        """
        deadline, is_told = time.monotonic() + FLUSH_PATIENCE_S, False
        while lacking := await self._ask():
            if time.monotonic() < deadline:
                continue
            if not self._is_endless:
                raise BrokerError(
                    f"The server at {url_of(self._client)} has done what it was asked to, but after "
                    f"{FLUSH_PATIENCE_S:g} s that is still not on {lacking}: it may be lost if its machine dies now.",
                    hint="Look at the server's disk, log and replicas; `mrun status last` shows what it has.",
                )
            if not is_told:
                is_told = True
                log.warning("flush_late", lacking=lacking, does="waits for it")

    async def _ask(self) -> str:
        """What the last writes are not on, after a while; empty: they are where they are to be.

        A write of its own goes first: WAITAOF and WAIT are answered at once on a connection that wrote nothing, and the
        change may have come by another connection, or by a request whose answer was lost.
        """
        if not self._needs.disk and not self._needs.replica:
            return ""
        pipe = self._client.pipeline(transaction=False)
        pipe.execute_command("EVAL", _MARK, 1, self._mark)
        places = []
        if self._needs.disk:
            places.append("its disk")
            pipe.execute_command("WAITAOF", 1, 0, _ASK_MS)
        if self._needs.replica:
            places.append("a replica")
            pipe.execute_command("WAIT", 1, _ASK_MS)
        with translate_errors(url_of(self._client)):
            answers = await pipe.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, redis.exceptions.ResponseError) and "WAITAOF" in str(answer):
                    raise _refusal(url_of(self._client), "can't tell any more when a change is on its disk")
                if isinstance(answer, Exception):
                    raise answer
        counts = [answer[0] if isinstance(answer, list) else answer for answer in answers[1:]]
        return " and ".join(place for place, count in zip(places, counts, strict=True) if not count)
