"""The settle duty: all that a worker tells the server about its claims goes through here, one request at a time."""

from __future__ import annotations

import contextlib

import msgspec

from mrun.engine.logging import log
from mrun.engine.records import Settlement
from mrun.engine.store.seal import Seal
from mrun.engine.store.store import Store
from mrun.engine.work.desk import Desk
from mrun.engine.work.held import Ending, HeldClaim
from mrun.engine.work.studies import Studies
from mrun.engine.workspace.journal import Record, Settled, Void

#: A claim of many short samples is settled so often.
SETTLE_EVERY_S = 1.0
#: Claims in one request.
_CLAIMS_MOST = 64


class Settler:
    """Journals and settles what has ended, and hands back what will not be started."""

    def __init__(self, desk: Desk, store: Store, studies: Studies, seal: Seal) -> None:
        self._desk, self._store, self._studies, self._seal = desk, store, studies, seal
        #: Set by the worker when no claim will come any more.
        self.is_last = False

    async def run(self) -> None:
        """Settle until the worker says that it is the last round, and nothing is in hand."""
        while not (self.is_last and not self._desk.held):
            await self._desk.settle_wanted.wait(SETTLE_EVERY_S)
            await self._settle()
            await self._hand_back()
            self._drop_ended()

    def journal_unheard(self) -> None:
        """Journal what has ended and was not settled: a worker that ends without its server tells it there."""
        for held in self._desk.held.values():
            if not held.is_lost:
                journal_ended(self._studies, held)

    async def _settle(self) -> None:
        while batch := [held for held in self._desk.held.values() if self._is_due(held)][:_CLAIMS_MOST]:
            settlements = [await self._prepare(held) for held in batch]
            answer = await self._store.settle(self._desk.worker, settlements)
            for held, settlement, word in zip(batch, settlements, answer.answers, strict=True):
                await self._note_answer(held, settlement, word)
            self._desk.note_due(answer.due_ms)

    def _is_due(self, held: HeldClaim) -> bool:
        is_time = held.is_done or held.unsettled_s >= SETTLE_EVERY_S
        return held.unsettled > 0 and not held.is_lost and is_time

    async def _prepare(self, held: HeldClaim) -> Settlement:
        """Journal first: what was settled is in the journal, whatever dies in between."""
        settlement, reasons = held.settlement()
        claim = held.claim
        await self._journal(held, _settled(held, settlement.upto))
        sealed = tuple(
            (sample, self._seal.close_text(reason, claim.study, f"reason:{claim.node}:{sample}"))
            for sample, reason in reasons
        )
        return msgspec.structs.replace(settlement, reasons=sealed)

    async def _note_answer(self, held: HeldClaim, settlement: Settlement, word: str) -> None:
        if word in ("lost", "gone"):
            log.warning("claim_lost", study=held.claim.study, claim=held.claim.number, why=word)
            held.end_now(Ending.LOST)
            # Of a study that nobody knows, nobody else can have had this claim: `mrun restart` counts what has ended.
            if not await self._studies.is_gone(held.claim.study):
                await self._journal(held, Void(held.claim.number, settlement.lo))
            return
        held.accounted(settlement.upto)
        if word == "stopping":
            held.stop_after_current()

    async def _hand_back(self) -> None:
        for held in list(self._desk.held.values()):
            limit = held.limit
            if limit >= held.hi or held.is_lost or held.settled > limit:
                continue
            is_ours = await self._store.hand_back(
                self._desk.worker, held.claim, limit, is_started=held.is_limit_started,
                is_loss=self._desk.has_lost_guard, slow_ms=held.slow_ms,
            )  # fmt: skip
            held.hi = limit
            if not is_ours:
                held.end_now(Ending.LOST)

    def _drop_ended(self) -> None:
        for number, held in list(self._desk.held.items()):
            if held.is_done and (held.is_lost or held.settled == held.at == held.hi):
                del self._desk.held[number]
                if self._desk.options.is_exit_when_done and not self._desk.held:
                    # That may have been the end of what it waits for, and no bell rings for it.
                    self._desk.look_wanted.set()
        self._studies.forget_idle({held.claim.study for held in self._desk.held.values()})

    async def _journal(self, held: HeldClaim, record: Record) -> None:
        with contextlib.suppress(OSError):
            study = await self._studies.get(held.claim.study)
            study.journal.write(record)


def journal_ended(studies: Studies, held: HeldClaim) -> None:
    """Journal what has ended of a claim that is not to be settled any more, and counts all the same."""
    journal = studies.journal_of(held.claim.study)
    if journal is not None and held.unsettled > 0:
        with contextlib.suppress(OSError):
            journal.write(_settled(held, held.at))


def _settled(held: HeldClaim, upto: int) -> Settled:
    """What the journal keeps of what has ended and is not accounted, below `upto`."""
    ended = held.ended_outcomes()[: upto - held.settled]
    return Settled(
        held.claim.number,
        held.settled,
        tuple(outcome.state.value for outcome, _ in ended),
        tuple(end.code if end else 0 for _, end in ended),
        tuple(round(end.elapsed_ms) if end else 0 for _, end in ended),
    )
