"""The store: one typed method for each move of `lua/verbs/*.lua`, and nothing else that writes.

Every move is atomic and idempotent, so a call whose reply was lost is simply made again, with the same token, until the
server answers or the patience ends. Nothing here is cached but the scripts' digests.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import anyio
import msgspec
import redis.asyncio
from redis.exceptions import ResponseError

from mrun.engine.errors import BrokerAwayError, BrokerError, MrunError, NotFoundError, UsageError
from mrun.engine.logging import log
from mrun.engine.plan.model import Plan
from mrun.engine.records import (
    BeatAnswer,
    BeatRequest,
    CancelAnswer,
    Claim,
    ClaimAnswer,
    ClaimRequest,
    Past,
    ReclaimAnswer,
    SettleAnswer,
    Settlement,
    WorkerFacts,
)
from mrun.engine.store.connect import translate_errors, url_of
from mrun.engine.store.durability import Flusher, FlushNeeds
from mrun.engine.store.library import Door, Word, library
from mrun.engine.store.schema import LAYOUT, Keys
from mrun.engine.store.seal import Seal
from mrun.engine.store.stored_plan import decode_plan, encode_growth, encode_plan, growing_steps, sealed_fields

#: A study that is laid down but not committed is forgotten after so long.
STAGED_TTL_S = 3600
#: Fields of a plan that one `submit` lays down.
_FIELDS_A_SUBMIT = 500
#: And about so many bytes.
_BYTES_A_SUBMIT = 4 << 20
#: Pause before a move is tried again: doubles from the first to the second, each with a random factor in [0.5, 1].
_FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
#: How a move refuses a namespace of another layout.
_LAYOUT = "LAYOUT"
#: Who waits for ever says so when the server has been away for so long: a lost connection is no news.
_TOLD_AFTER_S = 1.0


_encode = msgspec.msgpack.encode
_Answer = TypeVar("_Answer")


class Staged(NamedTuple):
    """What was laid down: `commit` makes sure that all of it is still there."""

    plan_fields: int
    past_fields: int


class Store:
    """The moves on one namespace of one server.

    Args:
        client: connection pool; redis-py's own retries must be off.
        namespace: prefix of all keys.
        patience_s: for how long a move is tried again while the server is away. 0: once; workers wait for ever.
        longest_pause_s: between two tries. Less than a lease: who comes back late from an outage is believed dead.
        flush: what has to be waited for when a study was queued or grew, and when a node has ended.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        namespace: str,
        *,
        patience_s: float = 0,
        longest_pause_s: float = LONGEST_PAUSE_S,
        flush: FlushNeeds | None = None,
    ) -> None:
        self.client = client
        self.keys = Keys(namespace)
        self.patience_s = patience_s
        self._flusher = Flusher(client, self.keys.root, flush or FlushNeeds(), patience_s)
        self._longest_pause_s = longest_pause_s
        #: Studies of which `commit` was asked for; whether it was done, only its answer tells.
        self.asked_for: set[str] = set()
        #: The first of the calls that the server has not answered since it went away; none: it is there.
        self._away_since: float | None = None
        self._is_away_told = False
        self._door = Door(client)
        self._is_layout_known = False
        # Tokens grow, so that the server knows a late copy of an old request. From the clock: another store may follow.
        self._tokens = itertools.count(time.time_ns() // 1000)

    # ------------------------------------------------------------------------------------------------- studies

    async def submit(self, study: str, plan: Plan, seal: Seal, past: Past = ()) -> Staged:
        """Lay a study down, unseen. Safe to cancel: it expires by itself.

        Args:
            past: what an earlier run of the study brought to its end, as fields of `study:<s>:past`.
        """
        has_past = bool(past)
        plan_fields = await self._stage(study, "plan", encode_plan(plan, study, seal, has_past=has_past))
        return Staged(plan_fields, await self._stage(study, "past", past))

    async def _stage(self, study: str, which: str, fields: Iterable[tuple[str, bytes]]) -> int:
        count, size = 0, 0
        part: list[str | bytes] = []
        for name, value in fields:
            part += [name, value]
            count += 1
            size += len(value)
            if len(part) >= 2 * _FIELDS_A_SUBMIT or size >= _BYTES_A_SUBMIT:
                await self.run("submit", study, STAGED_TTL_S, which, *part)
                part, size = [], 0
        if part:
            await self.run("submit", study, STAGED_TTL_S, which, *part)
        return count

    async def commit(
        self, study: str, staged: Staged, facts: Sequence[str | int | bytes], *, replaces: str = ""
    ) -> None:
        """Make a submitted study real. `facts` are field, value, … of its hash; see docs/redis-keys.md.

        Args:
            replaces: an earlier run of the same study; it is forgotten in the same move.

        Raises:
            NotFoundError: what was laid down expired before.
            UsageError: the run to be replaced has not ended.
        """

        self.asked_for.add(study)

        async def move() -> Any:
            return await self.run("commit", study, staged.plan_fields, staged.past_fields, replaces, *facts)

        answer = await self._lastingly(move, lambda answer: bool(answer == b"committed"))
        if answer == b"busy":
            raise UsageError(
                f"Study '{replaces}' has not ended.", hint="Wait for it (`mrun wait`), or stop it (`mrun cancel`)."
            )
        if answer == b"incomplete":
            raise NotFoundError(
                f"The parts of study '{study}' expired before they were complete.", hint="Queue it again."
            )

    async def grow(self, study: str, plan: Plan, seal: Seal, steps: bytes) -> str:
        """Put a study's plan with added samples in the place of the one it has, while it runs.

        Args:
            plan: with all its nodes; its table has one part more than that of the server's.
            steps: `steps` of the study's hash, anew.

        Returns:
            grown; or, and nothing has changed then: stale (others added samples), passed (what waited for all samples
            has begun), incomplete (it took too long), ended, or gone.
        """
        assert plan.samples is not None
        # Others may add samples at the same time: what each lays down must not mix.
        name = hashlib.sha1(_encode(plan.samples)).hexdigest()
        count = await self._stage(study, f"grown:{name}", encode_growth(plan, study, seal))
        growing, edition = _encode(growing_steps(plan)), plan.samples.edition

        async def move() -> str:
            return str((await self.run("grow", study, edition, count, growing, steps, name)).decode())

        return await self._lastingly(move, lambda answer: answer == "grown")

    async def cancel(self, study: str, *, is_kill: bool = True, why: str = "cancelled") -> CancelAnswer:
        """Stop a study: nothing more of it is claimed; running samples are killed, or let finish."""
        return _decode(await self.run("cancel", study, int(is_kill), why), CancelAnswer)

    async def purge(self, study: str) -> bool:
        """Forget a study with everything of it. False: it was not known."""
        answers = [await self.run("purge", study)]
        while answers[-1] == b"more":
            answers.append(await self.run("purge", study))
        return bool(answers[0] != b"gone")

    async def forget(self, study: str) -> str:
        """Remove a study that has ended: ok, gone, or busy if it has not."""
        return str((await self.run("forget", study)).decode())

    async def hold(self, study: str, *, is_held: bool) -> str:
        """Claim nothing more of a study until it is released, or release it: ok, gone or ended."""
        return str((await self.run("hold", study, int(is_held))).decode())

    async def prioritize(self, study: str, priority: int) -> str:
        """Claim a study's samples before those of studies with a lower priority: ok, gone or ended."""
        return str((await self.run("prioritize", study, priority)).decode())

    async def load_plan(self, study: str, seal: Seal) -> Plan:
        """The plan as a worker needs it: without nodes and edges. Raises as `decode_plan`."""
        count = await self.call("HGET", self.keys.study(study), "step_count")
        fields = sealed_fields(int(count or 0))
        return decode_plan(await self.call("HMGET", self.keys.plan(study), *fields), study, seal)

    # ------------------------------------------------------------------------------------------------- workers

    async def claim(self, worker: str, request: ClaimRequest) -> ClaimAnswer:
        """Get ranges for free slots; a sign of life, like a beat.

        A cancelled call may have claimed: a beat after the next claim puts that back.
        """
        return _decode(await self.run("claim", worker, next(self._tokens), _encode(request)), ClaimAnswer)

    async def settle(self, worker: str, settlements: Sequence[Settlement]) -> SettleAnswer:
        """Account outcomes and release what they make ready; one answer for each settlement."""
        token, request = next(self._tokens), _encode(settlements)

        async def move() -> SettleAnswer:
            return _decode(await self.run("settle", worker, token, request), SettleAnswer)

        return await self._lastingly(move, lambda answer: answer.ended_nodes > 0)

    async def hand_back(
        self, worker: str, claim: Claim, lo: int, *, is_started: bool = False, is_loss: bool = False, slow_ms: int = 0
    ) -> bool:
        """Return [lo, hi) of a claim unrun. False: it was not this worker's any more.

        Args:
            is_started: the first of them had been started.
            is_loss: and its worker was killed under it.
            slow_ms: so long has the sample before them run, if that is too long for a bite.
        """
        answer = await self.run("hand_back", worker, claim.text, lo, int(is_started), slow_ms, int(is_loss))
        return bool(answer == b"ok")

    async def beat(
        self,
        worker: str,
        lease_s: float,
        claims: Iterable[Claim],
        highest_claim: int,
        *,
        is_draining: bool = False,
        facts: WorkerFacts | None = None,
    ) -> BeatAnswer:
        """Extend the lease. With `facts`, register if need be; without, an unknown worker is told so."""
        request = BeatRequest(
            round(lease_s * 1000),
            tuple(claim.text for claim in claims),
            str(highest_claim),
            is_draining,
            () if facts is None else _fact_fields(facts),
            -1 if facts is None else facts.time_left_ms,
        )
        answer = _decode(await self.run("beat", worker, _encode(request)), BeatAnswer)
        return msgspec.structs.replace(answer, lost=_numbers(answer.lost), kill=_numbers(answer.kill))

    async def reclaim(self, worker: str) -> ReclaimAnswer:
        """Put back what dead workers owned; `worker` is who sweeps."""
        return _decode(await self.run("reclaim", worker), ReclaimAnswer)

    async def leave(self, worker: str) -> None:
        """Say good-bye: everything still owned is put back."""
        while await self.run("leave", worker) == b"more":
            pass

    async def stop(self, workers: Sequence[str]) -> int:
        """Ask workers to drain; returns how many of them are known."""
        return int(await self.run("stop", *workers))

    # ------------------------------------------------------------------------------------------------- calls

    async def await_flush(self) -> None:
        """Until all that was done before is where `flush` wants it. Raises as `Flusher.wait`."""
        await self._flusher.wait()

    async def call(self, *words: Word) -> Any:
        """One plain command, tried again like a move: for reads only."""
        return (await self._read([words], are_strict=True))[0]

    async def look(self, *words: Word) -> Any:
        """As `call`, for the key of a study, which somebody may have damaged; None if it is of another type."""
        return (await self.look_at([words]))[0]

    async def look_at(self, calls: Sequence[Sequence[Word]]) -> list[Any]:
        """Several plain commands in one round trip, each as `look`."""
        return await self._read(calls, are_strict=False)

    async def _read(self, calls: Sequence[Sequence[Word]], *, are_strict: bool) -> list[Any]:
        async def once() -> list[Any]:
            await self._check_layout()
            pipe = self.client.pipeline(transaction=False)
            for words in calls:
                pipe.execute_command(*words)
            replies = await pipe.execute(raise_on_error=False)
            for reply in replies:
                if isinstance(reply, Exception) and (are_strict or not str(reply).startswith("WRONGTYPE")):
                    raise reply
            return [None if isinstance(reply, Exception) else reply for reply in replies]

        return cast("list[Any]", await self._patiently(once)) if calls else []

    async def _check_layout(self) -> None:
        """Once for each store: nothing is asked of a namespace of another layout."""
        if self._is_layout_known:
            return
        try:
            sign: Any = await self.client.get(f"{{{self.keys.namespace}}}:studies")
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            sign = b"layout 1"
        if sign is not None and sign != f"layout {LAYOUT}".encode():
            found = re.search(rb"\d+", sign)
            raise ResponseError(f"{_LAYOUT} {found[0].decode() if found else 1}")
        self._is_layout_known = True

    async def now_ms(self) -> int:
        """The store's time: the server's, and all that it was ever set back by. Leases end by it."""
        (seconds, micros), set_back = await self.look_at([("TIME",), ("HGET", self.keys.clock, "set_back_ms")])
        set_back = set_back or b"0"
        return int(seconds) * 1000 + int(micros) // 1000 + (int(set_back) if set_back.isdigit() else 0)

    async def run(self, move: str, *arguments: Word) -> Any:
        """One move by its name, tried again while the server is away. For the typed methods that stand for moves."""

        async def once() -> Any:
            await self._check_layout()
            return await self._door.call(move, self.keys.root, *arguments)

        return await self._patiently(once)

    def read_moves(self) -> None:
        """Read their text now: who has no descriptor left must still be able to hand back what he can't start."""
        library()

    async def _lastingly(
        self, move: Callable[[], Awaitable[_Answer]], is_to_last: Callable[[_Answer], bool]
    ) -> _Answer:
        """`move`, whose outcome is then where `flush` wants it.

        If the server goes away in between it may come back without it, so the move is made again, from the beginning.
        """
        deadline = time.monotonic() + self.patience_s
        while True:
            answer = await move()
            if not is_to_last(answer):
                return answer
            try:
                await self._flusher.wait()
            except BrokerAwayError:
                if time.monotonic() + _FIRST_PAUSE_S > deadline:
                    raise
                await anyio.sleep(_FIRST_PAUSE_S)
            else:
                return answer

    async def _patiently(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """`call` until the server answers, or the patience ends. Only for what may be done twice."""
        # From the first failure on: an answer that does not come is waited for longer than a command is patient, and a
        # command that was stopped meanwhile has tried once.
        deadline: float | None = None
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                with translate_errors(url_of(self.client)), self._translate_layout():
                    answer = await call()
            except BrokerAwayError as error:
                failed_at = time.monotonic()
                deadline = failed_at + self.patience_s if deadline is None else deadline
                if failed_at + pause_s > deadline:
                    raise
                self._note_away(error)
            else:
                self._note_back()
                return answer
            await anyio.sleep(pause_s * random.uniform(0.5, 1))
            pause_s = min(2 * pause_s, self._longest_pause_s)

    @contextmanager
    def _translate_layout(self) -> Iterator[None]:
        try:
            yield
        except ResponseError as error:
            name, _, found = str(error).partition(" ")
            if name != _LAYOUT:
                raise
            raise BrokerError(
                f"Namespace '{self.keys.namespace}' on this server was written by another version of mrun: its keys "
                f"have layout {found}, and this version reads layout {LAYOUT}. Nothing was changed.",
                hint="Let that version finish the studies there, or remove them (`mrun purge all`); "
                "or use a namespace of your own: `--namespace NAME`.",
            ) from error

    def _note_away(self, error: BrokerAwayError) -> None:
        """Say once in an outage that the server is waited for; commands say it themselves, and do not wait for ever."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        if not self._is_away_told and now - self._away_since >= _TOLD_AFTER_S and self.patience_s == float("inf"):
            self._is_away_told = True
            log.warning("server_away", why=error.message, does="waits for it; what runs goes on", hint=error.hint)

    def _note_back(self) -> None:
        if self._is_away_told and self._away_since is not None:
            log.info("server_back", away_s=round(time.monotonic() - self._away_since, 1))
        self._away_since, self._is_away_told = None, False


def _numbers(claims: Sequence[str]) -> tuple[str, ...]:
    return tuple(claim.partition(":")[0] for claim in claims)


def _fact_fields(facts: WorkerFacts) -> tuple[str | int, ...]:
    return (
        *("host", facts.host, "pid", facts.pid, "queues", ",".join(facts.queues), "slots", facts.slots),
        *("name", facts.name, "resources", facts.resources, "has_told_cpus", int(facts.has_told_cpus)),
        *("version", facts.version),
    )


def _decode(raw: bytes, kind: type[_Answer]) -> _Answer:
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except ValueError as error:  # msgspec's, or that of a text that is none
        raise MrunError(f"The server's answer is not a {kind.__name__}: {raw[:200]!r}") from error
