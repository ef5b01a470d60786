"""The beat duty: a worker's sign of life, and its ear; and tending, when it is this worker's turn.

A worker without claims hardly ever beats: its looks for work are signs of life, too, and tell all that it must hear.
"""

from __future__ import annotations

import math
import time

import msgspec

from mrun.engine.logging import log
from mrun.engine.records import BeatAnswer
from mrun.engine.store.store import Store
from mrun.engine.work.desk import Desk, Stop
from mrun.engine.work.held import Ending
from mrun.engine.work.settler import journal_ended
from mrun.engine.work.studies import Studies

#: So many beats in a lease; and one of a worker without claims when its looks for work stay out for that long.
_BEATS_A_LEASE = 4
#: However long the lease, a cancelled study's samples are to end soon.
_BEAT_MOST_S = 2.0
#: Before the allocation's end: nothing more is claimed; and later, what runs is ended and handed back.
_DRAIN_BEFORE_S, _END_BEFORE_S = 60.0, 15.0


class Pulse:
    """Beats, sweeps, and wakes for due retries. Goes on until it is cancelled, as the last of all duties."""

    def __init__(self, desk: Desk, store: Store, studies: Studies) -> None:
        self._desk, self._store, self._studies = desk, store, studies
        #: The server has been told who this is.
        self._is_known = False
        self._sweep_at: float | None = None
        self._beat_at = math.inf

    async def run(self) -> None:
        """Beat when it is time, or somebody asks; sweep while this worker tends; stop before its allocation ends."""
        desk = self._desk
        while True:
            self._plan_beat()
            self._watch_allocation()
            now = time.monotonic()
            if self._sweep_at is not None and now >= self._sweep_at:
                await self._sweep()
            elif desk.is_beat_asked or now >= min(self._beat_at, desk.due_at or math.inf):
                await self.beat()
            else:
                moments = [self._beat_at, self._sweep_at, desk.due_at, self._stop_at()]
                await desk.beat_wanted.wait(min(moment for moment in moments if moment is not None) - now)

    def _plan_beat(self) -> None:
        """Claims in hand want beats, which tell what is lost or cancelled; without any, only a whole lease does."""
        lease_s = self._desk.options.lease_s
        if self._desk.held:
            soon_s = min(lease_s / _BEATS_A_LEASE, _BEAT_MOST_S)
            self._beat_at = min(self._beat_at, time.monotonic() + soon_s)
        else:
            self._beat_at = self._desk.seen_at + lease_s / _BEATS_A_LEASE

    async def beat(self) -> None:
        """One beat, and what it tells."""
        desk = self._desk
        self._watch_allocation()
        desk.due_at, desk.is_beat_asked = None, False
        asked_at = time.monotonic()
        answer = await self._send()
        if answer.status == "unknown":
            self._is_known = False
            await self._studies.look_for_gone()
            asked_at = time.monotonic()
            answer = await self._send()
        self._is_known, desk.seen_at, self._beat_at = True, asked_at, math.inf
        await self._obey(answer)
        desk.note_due(answer.due_ms)
        if answer.sweep_in_ms < 0:
            self._sweep_at = None
        elif self._sweep_at is None:
            self._sweep_at = time.monotonic() + answer.sweep_in_ms / 1000

    async def _send(self) -> BeatAnswer:
        desk = self._desk
        facts = None
        if not self._is_known:
            facts = msgspec.structs.replace(desk.facts, time_left_ms=desk.time_left_ms())
        return await self._store.beat(
            desk.worker,
            desk.options.lease_s,
            [held.claim for held in desk.held.values()],
            desk.highest_claim,
            is_draining=desk.stop > Stop.NONE,
            facts=facts,
        )

    async def _obey(self, answer: BeatAnswer) -> None:
        for text in answer.lost:
            held = self._desk.held.get(int(text))
            # One that is done was settled while this beat was on its way: its settle's answer tells.
            if held is not None and not held.is_done:
                held.is_study_gone = await self._studies.is_gone(held.claim.study)
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

    def _stop_at(self) -> float | None:
        """When the allocation's end is so near that the next stop is asked for; None: never, or no more."""
        ends_at, stop = self._desk.options.ends_at, self._desk.stop
        if ends_at is None or stop is Stop.NOW:
            return None
        return ends_at - (_END_BEFORE_S if stop is Stop.DRAIN else _DRAIN_BEFORE_S)

    def _watch_allocation(self) -> None:
        left_ms = self._desk.time_left_ms()
        if not 0 <= left_ms <= 1000 * _DRAIN_BEFORE_S:
            return
        how = Stop.NOW if left_ms <= 1000 * _END_BEFORE_S else Stop.DRAIN
        if how > self._desk.stop:
            # A worker that was given less than a minute ends at once, and would not say why.
            why = f"in the last {_DRAIN_BEFORE_S:.0f} s nothing is claimed"
            log.warning("allocation_ending", left_s=round(left_ms / 1000), does=how.name.lower(), why=why)
            self._desk.ask_stop(how)
