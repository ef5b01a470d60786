"""Allocations on demand, as the server holds them: what was asked for, and what became of its jobs.

Both are sealed: who has the server's password, and not the user's key, can't choose what is submitted, or cancelled.
One keeper at a time works on an allocation; each state is made from the one before it, so that a keeper who was away
for too long, and comes back, changes nothing.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from mrun.engine.errors import NotFoundError, SealError
from mrun.engine.store.seal import Seal
from mrun.engine.store.store import Store

#: Requests to a keeper. FORCE: remove it, and cancel also the jobs that run.
PAUSE, RESUME, REMOVE, FORCE = "pause", "resume", "remove", "force"

_encode = msgspec.msgpack.encode
_Record = TypeVar("_Record", bound=msgspec.Struct)


class AllocTerms(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was asked for with `mrun alloc add`.

    Attributes:
        mark: random, so that no job of an earlier allocation of the same name is mistaken for one of this.
        kind: the scheduler, as `batch.type` calls it.
        cores, gpus: of each node; no cores: whole nodes.
        slots: of the worker on each node; 0: as many as it finds cores.
        resources: of each worker, as `mrun work --resources` reads them; empty: what it finds.
        max_jobs: so many may wait or run at a time.
        min_backlog: so many samples that nobody is there for are worth one more job.
        idle_exit_s: without work, so long, workers leave and waiting jobs are cancelled.
        extra: words for whoever submits, after all others.
    """

    name: str
    mark: str
    kind: str
    queues: tuple[str, ...]
    walltime_s: float
    nodes: int = 1
    cores: int = 0
    gpus: int = 0
    slots: int = 0
    resources: str = ""
    max_jobs: int = 4
    min_backlog: int = 1
    idle_exit_s: float = 300.0
    bank: str = ""
    partition: str = ""
    qos: str = ""
    reservation: str = ""
    extra: tuple[str, ...] = ()

    def job_name(self, number: int) -> str:
        """What the scheduler calls its job, and mrun the workers in it."""
        return f"mrun-alloc-{self.name}-{self.mark}-{number}"


class AllocJob(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job that waits or runs, or that was about to be submitted when nothing more was heard.

    Attributes:
        job: the scheduler's id; empty: not known, and perhaps there is none.
        asked_at_ms: when it was about to be submitted.
        has_worked: a worker of it was seen.
        is_cancelled: we have asked for its end.
    """

    number: int
    asked_at_ms: int
    job: str = ""
    is_running: bool = False
    has_worked: bool = False
    is_cancelled: bool = False


class AllocState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of it.

    Attributes:
        last_number: of the last job that was asked for.
        jobs: those that have not ended.
        ended: how many have ended.
        slots: of one job, as its workers have told; 0: not known.
        resources: of one worker, in the same way; empty: not known.
        failures: in a row; submissions that failed, and jobs that failed before they had worked.
        error: what is wrong now; empty: nothing is.
        retry_at_ms: nothing is submitted before.
        is_paused: nothing is submitted until somebody says so, because of too many failures.
        idle_since_ms: since then nothing waits for its jobs; 0: something does.
    """

    last_number: int = 0
    jobs: tuple[AllocJob, ...] = ()
    ended: int = 0
    slots: int = 0
    resources: str = ""
    failures: int = 0
    error: str = ""
    retry_at_ms: int = 0
    is_paused: bool = False
    idle_since_ms: int = 0


class KeptAlloc(msgspec.Struct, frozen=True):
    """An allocation, as it was at `now_ms` by the server's clock. `keeper` is empty if nobody keeps it."""

    terms: AllocTerms
    state: AllocState
    edition: int
    request: str
    keeper: str
    now_ms: int
    added_at_ms: int = 0


class Allocs:
    """The allocations of one namespace, with this user's key."""

    def __init__(self, store: Store, seal: Seal) -> None:
        self._store, self._seal = store, seal

    async def names(self) -> list[str]:
        """In the order in which they were added."""
        raw = await self._store.call("ZRANGE", self._store.keys.allocs, 0, -1)
        return [name.decode() for name in raw]

    async def add(self, terms: AllocTerms) -> bool:
        """Keep an allocation from now on. False: there is one of that name, and nothing has changed."""
        sealed = self._seal.close(_encode(terms), _bound(terms.name), "terms")
        return bool(await self._store.run("alloc_add", terms.name, sealed) == b"ok")

    async def look(self, name: str) -> KeptAlloc:
        """An allocation, read only.

        Raises:
            NotFoundError: there is none of that name.
            SealError: it was added with another key.
        """
        fields = ("terms", "state", "edition", "request", "keeper", "kept_until_ms", "added_at_ms")
        raw = await self._store.call("HMGET", self._store.keys.alloc(name), *fields)
        now_ms = await self._store.now_ms()
        is_kept = int(raw[5] or 0) > now_ms
        return self._kept(name, [*raw[:4], raw[4] if is_kept else b"", now_ms, raw[6]])

    async def keep(self, name: str, keeper: str, length_s: float) -> KeptAlloc | None:
        """Be the one who keeps it, for so long; or, with 0, give that up. None: another keeper's time has not ended.

        Raises:
            NotFoundError, SealError: as `look`.
        """
        word, *facts = await self._store.run("alloc_keep", name, keeper, round(1000 * length_s))
        if word == b"busy":
            return None
        return self._kept(name, [*facts, b"0"])

    async def note(self, kept: KeptAlloc, keeper: str, state: AllocState, *, answers: str = "") -> KeptAlloc | None:
        """Write a new state in the place of the one that was read. None: somebody else did, and nothing has changed.

        Args:
            answers: a request that this state is the answer to.
        """
        sealed = self._seal.close(_encode(state), _bound(kept.terms.name), f"state:{kept.terms.mark}")
        words = (kept.terms.name, keeper, kept.edition, sealed, answers)
        answer = await self._store.run("alloc_note", *words)
        if answer == b"lost":
            return None
        return msgspec.structs.replace(kept, state=state, edition=int(answer), request="" if answers else kept.request)

    async def forget(self, kept: KeptAlloc, keeper: str) -> bool:
        """Remove an allocation. False: somebody else has it now, and nothing has changed."""
        return bool(await self._store.run("alloc_note", kept.terms.name, keeper, kept.edition, "", "") != b"lost")

    async def ask(self, name: str, request: str) -> None:
        """Ask its keeper for something. Raises NotFoundError if there is none of that name."""
        if await self._store.run("alloc_ask", name, request) == b"gone":
            raise _unknown(name)

    def _kept(self, name: str, facts: list[Any]) -> KeptAlloc:
        sealed_terms, sealed_state, edition, request, keeper, now_ms, added_at_ms = facts
        if not sealed_terms:
            raise _unknown(name)
        terms = self._opened(name, sealed_terms, "terms", AllocTerms)
        state = self._opened(name, sealed_state, f"state:{terms.mark}", AllocState) if sealed_state else AllocState()
        return KeptAlloc(
            terms=terms,
            state=state,
            edition=int(edition),
            request=(request or b"").decode(),
            keeper=(keeper or b"").decode(),
            now_ms=int(now_ms),
            added_at_ms=int(added_at_ms or 0),
        )

    def _opened(self, name: str, sealed: bytes, part: str, kind: type[_Record]) -> _Record:
        try:
            return msgspec.msgpack.decode(self._seal.open(sealed, _bound(name), part), type=kind)
        except (SealError, msgspec.DecodeError) as error:
            raise SealError(
                f"Allocation '{name}' was added with another key than this user's, or by another version of mrun.",
                hint="Copy seal.key from the configuration directory of the machine where it was added.",
            ) from error


def _bound(name: str) -> str:
    return f"alloc:{name}"


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"There is no allocation '{name}'.", hint="`mrun alloc list` lists them.")
