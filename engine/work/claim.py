"""The account of a claim: what came of its samples, what is settled of it, and how far it may go. Pure."""

from __future__ import annotations

import time

from mrun.engine.records import Claim, OutcomeRun, SampleState, Settlement
from mrun.engine.work.outcomes import Exit, Outcome

#: Runs of equal outcomes in one settlement: keeps what one move touches bounded.
_RUNS_MOST = 64


class ClaimAccount:
    """One claim's samples in order.

    `lo ≤ settled ≤ at ≤ limit ≤ hi`: [settled, at) has ended and is not accounted; `at` runs or is next; [limit, hi)
    will not be started here and has to be handed back.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.settled = claim.lo
        self.at = claim.lo
        self.limit = claim.hi
        self.hi = claim.hi
        #: The sample at `limit` had been started before it was given up: it resumes.
        self.is_limit_started = False
        #: The rest is handed back because a sample ran so long for a bite.
        self.slow_ms = 0
        self._outcomes: list[tuple[Outcome, Exit | None]] = []
        self._taken_at = self._settled_at = time.monotonic()

    @property
    def unsettled(self) -> int:
        """How many samples have ended and are not accounted."""
        return self.at - self.settled

    @property
    def unsettled_s(self) -> float:
        """Seconds since the last settlement."""
        return time.monotonic() - self._settled_at

    @property
    def age_s(self) -> float:
        """Seconds since it was taken."""
        return time.monotonic() - self._taken_at

    @property
    def is_settled(self) -> bool:
        """Whether all of it is accounted or handed back."""
        return self.settled == self.at == self.hi

    def note(self, outcome: Outcome, end: Exit | None) -> None:
        """The sample at `at` came to this."""
        self._outcomes.append((outcome, end))
        self.at += 1

    def give_up(self, *, is_started: bool) -> None:
        """The sample at `at` and all behind it go back."""
        self.limit, self.is_limit_started = self.at, is_started

    def settlement(self) -> tuple[Settlement, list[tuple[int, str]]]:
        """What is to be accounted next, and (sample, reason) of those that failed. Changes nothing: see `accounted`."""
        runs: list[tuple[Outcome, int]] = []
        reasons: list[tuple[int, str]] = []
        elapsed_ms, upto = 0.0, self.settled
        for outcome, end in self._outcomes:
            last, count = runs[-1] if runs else (None, 0)
            # Outcomes of success are one object: a bite of a thousand samples compares nothing.
            if last is not None and (outcome is last or _counts_alike(outcome, last)):
                runs[-1] = (last, count + 1)
            elif len(runs) == _RUNS_MOST:
                break
            else:
                runs.append((outcome, 1))
            if outcome.state is SampleState.FAILED:
                reasons.append((upto, outcome.reason))
            elapsed_ms += end.elapsed_ms if end else 0
            upto += 1
        outcomes = tuple(OutcomeRun(count, one.state.value, one.resume, int(one.flags)) for one, count in runs)
        return Settlement(self.claim.text, self.settled, upto, outcomes, elapsed_ms), reasons

    def accounted(self, upto: int) -> None:
        """The server has accounted everything below `upto`."""
        del self._outcomes[: upto - self.settled]
        self.settled = upto
        self._settled_at = time.monotonic()

    def handed_back(self, limit: int) -> None:
        """The server has everything from `limit` on."""
        self.hi = limit

    def ended_outcomes(self) -> list[tuple[Outcome, Exit | None]]:
        """Everything that has ended and is not accounted, in order."""
        return list(self._outcomes)


def _counts_alike(one: Outcome, other: Outcome) -> bool:
    """Whether the server accounts them alike: reasons are sent one by one."""
    return (one.state, one.resume, one.flags) == (other.state, other.resume, other.flags)
