"""The heartbeat: a worker says that it lives, hears what is asked of it, and sweeps when it is the one who does.

A worker without claims hardly ever beats: its looks for work are signs of life, too, and tell all that it must hear.
"""

from __future__ import annotations

import math
import time

import msgspec

from mrun.engine.logging import log
from mrun.engine.records import BeatAnswer, WorkerAnswer
from mrun.engine.store.store import Store
from mrun.engine.work.settler import journal_ended
from mrun.engine.work.state import Stop, WorkerState
from mrun.engine.work.studies import Studies

#: So many beats in a lease; and one of a worker without claims when its looks for work stay out for that long.
_BEATS_A_LEASE = 4
#: However long the lease, a cancelled study's samples are to end soon.
_BEAT_MOST_S = 2.0
#: Before the allocation's end: nothing more is claimed; and later, what runs is ended and handed back.
_DRAIN_BEFORE_S, _END_BEFORE_S = 60.0, 15.0


class Heartbeat:
    """Beats, sweeps, and wakes for due retries. Goes on until it is cancelled, as the last of all duties."""

    def __init__(self, state: WorkerState, store: Store, studies: Studies) -> None:
        self._state, self._store, self._studies = state, store, studies
        #: The server knows who this is.
        self._is_known = False
        self._sweep_at: float | None = None
        self._beat_at = math.inf

    async def run(self) -> None:
        """Beat when it is time, or somebody asks; sweep if this worker is the one; stop before its allocation ends."""
        state = self._state
        while True:
            self._plan_beat()
            self._watch_allocation()
            now = time.monotonic()
            if self._sweep_at is not None and now >= self._sweep_at:
                await self._sweep()
            elif state.is_beat_asked or now >= min(self._beat_at, state.due_at or math.inf):
                await self.beat()
            else:
                moments = [self._beat_at, self._sweep_at, state.due_at, self._stop_at()]
                await state.beat_wanted.wait(min(moment for moment in moments if moment is not None) - now)

    def _plan_beat(self) -> None:
        """With claims it beats often, to hear what is lost or cancelled; without any, only to renew its lease."""
        lease_s = self._state.options.lease_s
        if self._state.claims:
            soon_s = min(lease_s / _BEATS_A_LEASE, _BEAT_MOST_S)
            self._beat_at = min(self._beat_at, time.monotonic() + soon_s)
        else:
            self._beat_at = self._state.seen_at + lease_s / _BEATS_A_LEASE

    async def beat(self) -> None:
        """Beat once, and do what the answer asks."""
        state = self._state
        self._watch_allocation()
        state.due_at, state.is_beat_asked = None, False
        asked_at = time.monotonic()
        answer = await self._send()
        if answer.status == WorkerAnswer.UNKNOWN:
            self._is_known = False
            await self._studies.look_for_gone()
            asked_at = time.monotonic()
            answer = await self._send()
        self._is_known, state.seen_at, self._beat_at = True, asked_at, math.inf
        await self._obey(answer)
        state.note_due(answer.due_ms)
        if answer.sweep_in_ms < 0:
            self._sweep_at = None
        elif self._sweep_at is None:
            self._sweep_at = time.monotonic() + answer.sweep_in_ms / 1000

    async def _send(self) -> BeatAnswer:
        state = self._state
        facts = None
        if not self._is_known:
            facts = msgspec.structs.replace(state.facts, time_left_ms=state.time_left_ms())
        return await self._store.beat(
            state.worker,
            state.options.lease_s,
            [run.claim for run in state.claims.values()],
            state.highest_claim,
            is_draining=state.stop > Stop.NONE,
            facts=facts,
        )

    async def _obey(self, answer: BeatAnswer) -> None:
        for text in answer.lost:
            run = self._state.claims.get(int(text))
            # One that is done was settled while this beat was on its way: its settle's answer tells.
            if run is not None and not run.is_done:
                is_gone = await self._studies.is_gone(run.claim.study)
                log.warning(
                    "claim_lost", study=run.claim.study, claim=text, why="the lease ended, or the study is gone"
                )
                run.lose(is_study_gone=is_gone)
        lost = [run for run in self._state.claims.values() if run.is_lost]
        for study in {run.claim.study for run in lost}:
            if await self._studies.is_gone(study):
                # Nobody else can have had these claims: `mrun restart` counts what has ended.
                for run in lost:
                    if run.claim.study == study:
                        journal_ended(self._studies, run)
        for text in answer.kill:
            run = self._state.claims.get(int(text))
            if run is not None and not run.is_done:
                run.cancel()
                self._state.settle_wanted.set()
        if answer.request == WorkerAnswer.DRAIN:
            self._state.ask_stop(Stop.DRAIN)

    async def _sweep(self) -> None:
        answer = await self._store.reclaim(self._state.worker)
        for worker in answer.removed_workers:
            log.warning("worker_reclaimed", dead_worker=worker)
            # The bell may have woken the dead one: a stopped process still waits in its read, and is served first.
            self._state.look_wanted.set()
        if answer.is_outage:
            log.warning("outage_noticed", why="nobody swept for a while: all leases begin anew")
        is_ours = answer.sweep_in_ms > 0
        self._sweep_at = time.monotonic() + answer.sweep_in_ms / 1000 if is_ours else None

    def _stop_at(self) -> float | None:
        """When the allocation's end is so near that the next stop is asked for; None: never, or no more."""
        ends_at, stop = self._state.options.ends_at, self._state.stop
        if ends_at is None or stop is Stop.NOW:
            return None
        return ends_at - (_END_BEFORE_S if stop is Stop.DRAIN else _DRAIN_BEFORE_S)

    def _watch_allocation(self) -> None:
        left_ms = self._state.time_left_ms()
        if not 0 <= left_ms <= 1000 * _DRAIN_BEFORE_S:
            return
        how = Stop.NOW if left_ms <= 1000 * _END_BEFORE_S else Stop.DRAIN
        if how > self._state.stop:
            # A worker that was given less than a minute ends at once, and would not say why.
            why = f"in the last {_DRAIN_BEFORE_S:.0f} s nothing is claimed"
            log.warning("allocation_ending", left_s=round(left_ms / 1000), does=how.name.lower(), why=why)
            self._state.ask_stop(how)
