"""What of a worker's resources is free, and what stays free for a claim that needs much.

Small samples would starve large ones: whenever a CPU is free, one of them fits. So the class whose turn has come and
that does not fit gets a promise: at the moment at which enough is expected to be free it shall begin, and until then
others get only what will be left over at that moment. (Schedulers call it EASY backfilling: Lifka, The ANL/IBM SP
scheduling system, 1995.)

What is promised lies idle until enough of it has come together. A worker pays for that at most a twentieth of what it
has: after a promise that has cost more, it makes the next one when the debt is paid off. Refused: a promise at every
turn, which leaves the more idle the longer the others' samples are; and one after so many seconds, which nobody can
choose.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from mrun.engine.records import Claim, ClaimAnswer, Kept, Room, Waiting
from mrun.engine.resources import Amounts, Inventory, fits, lacking

#: The share of a worker that may lie idle, in the long run, for claims that wait.
IDLE_SHARE_MOST = 0.05


class RunningClaim(Protocol):
    """What is to be known of a claim that uses resources."""

    @property
    def claim(self) -> Claim:
        """With what it takes."""

    @property
    def left_ms(self) -> float:
        """How long it is expected to take still; 0: any moment, or nobody knows."""


class Backfill:
    """One worker's account of its resources. `running` are always the claims that are not done."""

    def __init__(self, inventory: Inventory) -> None:
        self._total = inventory.amounts
        self._is_strict = inventory.has_told_cpus
        #: The class that a promise was made to.
        self._promised: Waiting | None = None
        #: The share of the worker that lies idle for it now; and seconds of all of it that must be paid off.
        self._idle_share, self._debt_s = 0.0, 0.0
        self._noted_at = time.monotonic()

    def free(self, running: Iterable[RunningClaim]) -> dict[str, int]:
        """What no claim has."""
        free = dict(self._total)
        for one in running:
            _add(free, one.claim.takes, -1)
        return free

    def offer(self, running: Collection[RunningClaim]) -> Room:
        """What the next claim may take."""
        free = {name: max(0, amount) for name, amount in self.free(running).items()}
        return Room(free, self._total, self._is_strict, self._promise(free, running))

    def note(self, answer: ClaimAnswer, running: Iterable[RunningClaim]) -> None:
        """Note what the server passed over. What came with the answer runs."""
        now = time.monotonic()
        self._debt_s = max(0.0, self._debt_s + (self._idle_share - IDLE_SHARE_MOST) * (now - self._noted_at))
        self._noted_at = now
        waiting = answer.waiting[0] if answer.waiting else None
        is_promised = waiting is not None and self._promised is not None and _is_same(waiting, self._promised)
        self._promised = waiting if is_promised or self._debt_s <= 0 else None
        self._idle_share = self._share(self.free(running)) if answer.is_kept and self._promised else 0.0

    def _share(self, free: Amounts) -> float:
        """How much of the worker lies idle, by what the promised class has too little of."""
        lacks = lacking(self._promised.needs, free) if self._promised else {}
        return max((amount / self._total[name] for name, amount in lacks.items()), default=0.0)

    def _promise(self, free: Amounts, running: Iterable[RunningClaim]) -> Kept | None:
        promised = self._promised
        if promised is None:
            return None
        coming, at_ms = dict(free), 0.0
        for one in sorted(running, key=lambda one: one.left_ms):
            if fits(promised.needs, coming):
                break
            _add(coming, one.claim.takes, 1)
            at_ms = one.left_ms
        spare = {name: min(free[name], max(0, coming[name] - promised.needs.get(name, 0))) for name in coming}
        return Kept(promised.queue, promised.stream, spare, round(at_ms))


def _is_same(one: Waiting, other: Waiting) -> bool:
    return (one.queue, one.stream) == (other.queue, other.stream)


def _add(amounts: dict[str, int], other: Mapping[str, int], sign: int) -> None:
    for name, amount in other.items():
        amounts[name] = amounts.get(name, 0) + sign * amount
