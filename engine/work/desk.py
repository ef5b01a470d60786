"""What the duties of one worker share: its options, the claims in hand, and who wants what. No Redis, no process."""

from __future__ import annotations

import enum
import math
import time
from pathlib import Path

import anyio
import msgspec

from mrun.engine.records import ClaimAnswer, WorkerFacts
from mrun.engine.resources import Inventory
from mrun.engine.work.affinity import Places
from mrun.engine.work.held import Ending, HeldClaim
from mrun.engine.work.nudge import Nudge
from mrun.engine.work.room import RoomKeeper


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


class Desk:
    """One worker's state in memory."""

    def __init__(self, worker: str, facts: WorkerFacts, options: WorkerOptions) -> None:
        self.worker = worker
        self.facts = facts
        self.options = options
        self.held: dict[int, HeldClaim] = {}
        self.room = RoomKeeper(options.inventory)
        self._places = Places(options.inventory)
        self.highest_claim = 0
        #: Studies that this worker does not want any more, and why.
        self.refused: dict[str, str] = {}
        self.stop = Stop.NONE
        #: It was killed by halves: what ran has lost a worker, as if all of it had been killed.
        self.has_lost_guard = False
        self.drain_asked, self.end_asked = anyio.Event(), anyio.Event()
        #: A claim has ended, or should be settled or handed back now.
        self.settle_wanted = Nudge()
        self.slot_freed = Nudge()
        #: When to beat is to be thought over: something was asked, or came in hand.
        self.beat_wanted = Nudge()
        #: A beat is to go out now.
        self.is_beat_asked = False
        #: When the last request went out that the server answered by a whole lease, on the monotonic clock.
        self.seen_at = -math.inf
        #: There may be work, or none any more for this worker: look, do not wait for a bell.
        self.look_wanted = Nudge()
        #: When the next retry of this worker's samples is due, on the monotonic clock.
        self.due_at: float | None = None

    @property
    def running(self) -> list[HeldClaim]:
        """The claims that have something of this worker."""
        return [held for held in self.held.values() if not held.is_done]

    def take(self, held: HeldClaim) -> None:
        """A claim came in: it gets its CPUs and GPUs until it is done."""
        if not self.held:
            self.beat_wanted.set()
        held.grant = self._places.grant(held.claim.takes, (other.grant for other in self.running))
        self.held[held.claim.number] = held
        self.highest_claim = max(self.highest_claim, held.claim.number)

    def note_look(self, asked_at: float, answer: ClaimAnswer) -> None:
        """A look for work, which is a sign of life, was answered; it may have to be followed by a beat."""
        if answer.status == "ok":
            self.seen_at = asked_at
            self.note_due(answer.due_ms)
        if answer.status == "unknown" or answer.is_untended:
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
        for held in self.held.values():
            if how is Stop.NOW:
                held.end_now(Ending.DRAINED)
            else:
                held.drain()
        # Others are to know soon: what a draining worker loses is not blamed on its samples.
        self.ask_beat()
        for nudge in (self.settle_wanted, self.slot_freed, self.look_wanted):
            nudge.set()

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
