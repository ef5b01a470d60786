"""The beat duty: a worker's sign of life, and its ear; and tending, when it is this worker's turn."""

from __future__ import annotations

import time

import structlog

from mrun.engine.records import BeatAnswer
from mrun.engine.store.store import Store
from mrun.engine.work.desk import Desk, Stop
from mrun.engine.work.held import Ending
from mrun.engine.work.settler import journal_ended
from mrun.engine.work.studies import Studies

#: However long the lease, a cancelled study's samples are to end soon.
_BEAT_MOST_S = 2.0
#: Before the allocation's end: nothing more is claimed; and later, what runs is ended and handed back.
_DRAIN_BEFORE_S, _END_BEFORE_S = 60.0, 15.0

log = structlog.get_logger()


class Pulse:
    """Beats, sweeps, and wakes for due retries. Goes on until it is cancelled, as the last of all duties."""

    def __init__(self, desk: Desk, store: Store, studies: Studies) -> None:
        self._desk, self._store, self._studies = desk, store, studies
        #: The server has been told who this is.
        self._is_known = False
        self._sweep_at: float | None = None

    async def run(self) -> None:
        """Beat every min(lease / 4, 2 s), sooner when somebody asks; sweep when this worker tends."""
        interval_s = min(self._desk.options.lease_s / 4, _BEAT_MOST_S)
        beat_at = time.monotonic() + interval_s
        while True:
            moments = [beat_at, self._sweep_at, self._desk.due_at]
            next_at = min(moment for moment in moments if moment is not None)
            await self._desk.beat_wanted.wait(max(0.0, next_at - time.monotonic()))
            now = time.monotonic()
            if self._sweep_at is not None and now >= self._sweep_at:
                await self._sweep()
            is_due = self._desk.due_at is not None and now >= self._desk.due_at
            if now >= beat_at or is_due:
                await self.beat()
                beat_at = time.monotonic() + interval_s

    async def beat(self) -> None:
        """One beat, and what it tells."""
        desk = self._desk
        self._watch_allocation()
        desk.due_at = None
        answer = await self._send()
        if answer.status == "unknown":
            self._is_known = False
            await self._studies.look_for_gone()
            answer = await self._send()
        self._is_known = True
        await self._obey(answer)
        desk.note_due(answer.due_ms)
        if answer.sweep_in_ms < 0:
            self._sweep_at = None
        elif self._sweep_at is None:
            self._sweep_at = time.monotonic() + answer.sweep_in_ms / 1000

    async def _send(self) -> BeatAnswer:
        desk = self._desk
        return await self._store.beat(
            desk.worker,
            desk.options.lease_s,
            [held.claim for held in desk.held.values()],
            desk.highest_claim,
            is_draining=desk.stop > Stop.NONE,
            facts=None if self._is_known else desk.facts,
        )

    async def _obey(self, answer: BeatAnswer) -> None:
        for text in answer.lost:
            held = self._desk.held.get(int(text))
            # One that is done was settled while this beat was on its way: its settle's answer tells.
            if held is not None and not held.is_done:
                log.warning(
                    "claim_lost", study=held.claim.study, claim=text, why="the lease ended, or the study is gone"
                )
                held.end_now(Ending.LOST)
        lost = [held for held in self._desk.held.values() if held.is_lost]
        for study in {held.claim.study for held in lost}:
            if await self._studies.is_gone(study):
                # Nobody else can have had these claims: `mrun restart` counts what has ended.
                for held in lost:
                    if held.claim.study == study:
                        journal_ended(self._studies, held)
        for text in answer.kill:
            held = self._desk.held.get(int(text))
            if held is not None and not held.is_done:
                held.end_now(Ending.CANCELLED)
                self._desk.settle_wanted.set()
        if answer.request == "drain":
            self._desk.ask_stop(Stop.DRAIN)

    async def _sweep(self) -> None:
        answer = await self._store.reclaim(self._desk.worker)
        for worker in answer.removed_workers:
            log.warning("worker_reclaimed", dead_worker=worker)
            # The bell may have woken the dead one: a stopped process still waits in its read, and is served first.
            self._desk.look_wanted.set()
        if answer.is_outage:
            log.warning("outage_noticed", why="nobody swept for a while: all leases begin anew")
        is_ours = answer.sweep_in_ms > 0
        self._sweep_at = time.monotonic() + answer.sweep_in_ms / 1000 if is_ours else None

    def _watch_allocation(self) -> None:
        left_ms = self._desk.time_left_ms()
        if 0 <= left_ms < 1000 * _END_BEFORE_S:
            self._desk.ask_stop(Stop.NOW)
        elif 0 <= left_ms < 1000 * _DRAIN_BEFORE_S:
            self._desk.ask_stop(Stop.DRAIN)
