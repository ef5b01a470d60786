"""The settle duty: what came of a worker's claims goes to the server through here, one request at a time."""

from __future__ import annotations

import contextlib

import msgspec

from mrun.engine.logging import log
from mrun.engine.records import Settlement, SettleResult
from mrun.engine.store.seal import Seal
from mrun.engine.store.store import Store
from mrun.engine.work.run import ClaimRun
from mrun.engine.work.state import WorkerState
from mrun.engine.work.studies import Studies
from mrun.engine.workspace.journal import Record, Settled, Void

#: A claim of many short samples is settled so often.
SETTLE_EVERY_S = 1.0
#: Claims in one request.
_CLAIMS_MOST = 64


class Settler:
    """Journals and settles what has ended, and hands back what will not be started."""

    def __init__(self, state: WorkerState, store: Store, studies: Studies, seal: Seal) -> None:
        self._state, self._store, self._studies, self._seal = state, store, studies, seal
        #: Set by the worker when no run will come any more.
        self.is_last = False

    async def run(self) -> None:
        """Settle until the worker says that it is the last round, and no claim is left."""
        while not (self.is_last and not self._state.claims):
            await self._state.settle_wanted.wait(SETTLE_EVERY_S)
            await self._settle()
            await self._hand_back()
            self._drop_ended()

    def journal_unheard(self) -> None:
        """Journal what has ended and was not settled: a worker that ends without its server leaves it there."""
        for run in self._state.claims.values():
            if not run.is_lost:
                journal_ended(self._studies, run)

    async def _settle(self) -> None:
        while batch := [run for run in self._state.claims.values() if self._is_due(run)][:_CLAIMS_MOST]:
            settlements = [await self._prepare(run) for run in batch]
            answer = await self._store.settle(self._state.worker, settlements)
            for run, settlement, word in zip(batch, settlements, answer.answers, strict=True):
                await self._note_answer(run, settlement, word)
            self._state.note_due(answer.due_ms)

    def _is_due(self, run: ClaimRun) -> bool:
        is_time = run.is_done or run.unsettled_s >= SETTLE_EVERY_S
        return run.unsettled > 0 and not run.is_lost and is_time

    async def _prepare(self, run: ClaimRun) -> Settlement:
        """Journal first: what was settled is in the journal, whatever dies in between."""
        settlement, reasons = run.settlement()
        claim = run.claim
        await self._journal(run, _settled(run, settlement.upto))
        sealed = tuple(
            (sample, self._seal.close_text(reason, claim.study, f"reason:{claim.node}:{sample}"))
            for sample, reason in reasons
        )
        return msgspec.structs.replace(settlement, reasons=sealed)

    async def _note_answer(self, run: ClaimRun, settlement: Settlement, word: str) -> None:
        if word in (SettleResult.LOST, SettleResult.GONE):
            log.warning("claim_lost", study=run.claim.study, claim=run.claim.number, why=word)
            run.lose()
            # Of a study that nobody knows, nobody else can have had this run: `mrun restart` counts what has ended.
            if not await self._studies.is_gone(run.claim.study):
                await self._journal(run, Void(run.claim.number, settlement.lo))
            return
        run.accounted(settlement.upto)
        if word == SettleResult.STOPPING:
            run.stop_after_current()

    async def _hand_back(self) -> None:
        for run in list(self._state.claims.values()):
            limit = run.limit
            if limit >= run.hi or run.is_lost or run.settled > limit:
                continue
            is_ours = await self._store.hand_back(
                self._state.worker, run.claim, limit, is_started=run.is_limit_started,
                is_loss=self._state.has_lost_guard, slow_ms=run.slow_ms,
            )  # fmt: skip
            run.handed_back(limit)
            if not is_ours:
                run.lose()

    def _drop_ended(self) -> None:
        for number, run in list(self._state.claims.items()):
            if run.is_done and (run.is_lost or run.is_settled):
                del self._state.claims[number]
                if self._state.options.is_exit_when_done and not self._state.claims:
                    # That may have been the end of what it waits for, and no bell rings for it.
                    self._state.look_wanted.set()
        self._studies.forget_idle({run.claim.study for run in self._state.claims.values()})

    async def _journal(self, run: ClaimRun, record: Record) -> None:
        with contextlib.suppress(OSError):
            study = await self._studies.get(run.claim.study)
            study.journal.write(record)


def journal_ended(studies: Studies, run: ClaimRun) -> None:
    """Journal what has ended of a run that is not to be settled any more, and counts all the same."""
    journal = studies.journal_of(run.claim.study)
    if journal is not None and run.unsettled > 0:
        with contextlib.suppress(OSError):
            journal.write(_settled(run, run.at))


def _settled(run: ClaimRun, upto: int) -> Settled:
    """What the journal keeps of what has ended and is not accounted, below `upto`."""
    ended = run.ended_outcomes()[: upto - run.settled]
    return Settled(
        run.claim.number,
        run.settled,
        tuple(outcome.state.value for outcome, _ in ended),
        tuple(end.code if end else 0 for _, end in ended),
        tuple(round(end.elapsed_ms) if end else 0 for _, end in ended),
    )
