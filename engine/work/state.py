"""What the duties of one worker share: its options, the claims that it runs, and who wants what."""

from __future__ import annotations

import enum
import math
import time
from pathlib import Path

import anyio
import msgspec

from mrun.engine.records import Claim, ClaimAnswer, WorkerAnswer, WorkerFacts
from mrun.engine.resources import Inventory
from mrun.engine.work.affinity import Devices
from mrun.engine.work.backfill import Backfill
from mrun.engine.work.run import ClaimRun, Ending
from mrun.engine.work.wakeup import Wakeup


class WorkerOptions(msgspec.Struct, frozen=True):
    """What a worker is asked to be. Times in seconds."""

    queues: tuple[str, ...]
    inventory: Inventory
    lease_s: float = 30.0
    #: Only this study and those that its steps queue; empty: any.
    root_study: str = ""
    is_exit_when_done: bool = False
    #: It exits when it has had no work for so long; None: never.
    idle_exit_s: float | None = None
    #: When its allocation ends, on this host's monotonic clock, which nobody sets; None: never.
    ends_at: float | None = None
    #: Variables that every step gets.
    environment: dict[str, str] = {}
    log_dir: Path | None = None


class Stop(enum.IntEnum):
    """How far a worker is on its way out."""

    NONE = 0
    #: Claims nothing more; what runs may finish.
    DRAIN = 1
    #: What runs is ended and handed back.
    NOW = 2


class WorkerState:
    """One worker's state in memory."""

    def __init__(self, worker: str, facts: WorkerFacts, options: WorkerOptions) -> None:
        self.worker = worker
        self.facts = facts
        self.options = options
        #: By number.
        self.claims: dict[int, ClaimRun] = {}
        self.backfill = Backfill(options.inventory)
        self._devices = Devices(options.inventory)
        self.highest_claim = 0
        #: Studies that this worker does not want any more, and why.
        self.refused: dict[str, str] = {}
        self.stop = Stop.NONE
        #: It was killed by halves: what ran has lost a worker, as if all of it had been killed.
        self.has_lost_guard = False
        self.drain_asked, self.end_asked = anyio.Event(), anyio.Event()
        #: A claim has ended, or should be settled or handed back now.
        self.settle_wanted = Wakeup()
        self.slot_freed = Wakeup()
        #: When to beat is to be thought over: something was asked, or came in hand.
        self.beat_wanted = Wakeup()
        #: A beat is to go out now.
        self.is_beat_asked = False
        #: When the last request went out that the server answered by a whole lease, on the monotonic clock.
        self.seen_at = -math.inf
        #: There may be work, or none any more for this worker: look, do not wait for a bell.
        self.look_wanted = Wakeup()
        #: When the next retry of this worker's samples is due, on the monotonic clock.
        self.due_at: float | None = None

    @property
    def running(self) -> list[ClaimRun]:
        """The claims that use something of this worker."""
        return [claim for claim in self.claims.values() if not claim.is_done]

    def take(self, claim: Claim) -> ClaimRun:
        """A claim came in: it gets its CPUs and GPUs until it is done."""
        if not self.claims:
            self.beat_wanted.set()
        run = ClaimRun(claim)
        run.grant = self._devices.grant(claim.takes, (other.grant for other in self.running))
        self.claims[claim.number] = run
        self.highest_claim = max(self.highest_claim, claim.number)
        if self.stop > Stop.NONE:
            run.stop_after_current()
        return run

    def note_look(self, asked_at: float, answer: ClaimAnswer) -> None:
        """A look for work, which is a sign of life, was answered; it may have to be followed by a beat."""
        if answer.status == WorkerAnswer.OK:
            self.seen_at = asked_at
            self.note_due(answer.due_ms)
        if answer.status == WorkerAnswer.UNKNOWN or answer.is_untended:
            self.ask_beat()

    def ask_beat(self) -> None:
        """Beat now."""
        self.is_beat_asked = True
        self.beat_wanted.set()

    def ask_stop(self, how: Stop) -> None:
        """Go out, at least so fast."""
        if how <= self.stop:
            return
        self.stop = how
        self.drain_asked.set()
        if how is Stop.NOW:
            self.end_asked.set()
        for claim in self.claims.values():
            if how is Stop.NOW:
                claim.end_now(Ending.DRAINED)
            else:
                claim.drain()
        # Others are to know soon: what a draining worker loses is not blamed on its samples.
        self.ask_beat()
        for wakeup in (self.settle_wanted, self.slot_freed, self.look_wanted):
            wakeup.set()

    def note_due(self, due_ms: int) -> None:
        """A retry is due in so many milliseconds (-1: none)."""
        if due_ms < 0:
            return
        due_at = time.monotonic() + due_ms / 1000
        if self.due_at is None or due_at < self.due_at:
            self.due_at = due_at
            self.beat_wanted.set()

    def time_left_ms(self) -> int:
        """Until the allocation ends; -1: never."""
        if self.options.ends_at is None:
            return -1
        return max(0, round(1000 * (self.options.ends_at - time.monotonic())))
