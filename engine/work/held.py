"""A claim in hand: where its slot is, what is not settled yet, and how far it may go."""

from __future__ import annotations

import enum
import signal
import time

from mrun.engine.records import Claim, OutcomeRun, SampleState, Settlement
from mrun.engine.work.affinity import NO_GRANT
from mrun.engine.work.execution import Execution, Prepared
from mrun.engine.work.job_process import JobProcess
from mrun.engine.work.outcomes import Exit, Outcome

#: Runs of equal outcomes in one settlement: keeps what one move touches bounded.
_RUNS_MOST = 64


class Ending(enum.Enum):
    """Why we end a running sample; the value is the seconds between TERM and KILL."""

    #: Another worker has it now, or will: not a moment longer.
    LOST = 0.0
    #: This worker was told to end now.
    DRAINED = 2.0
    #: Its study was cancelled.
    CANCELLED = 10.0


class HeldClaim:
    """One claim, run in order by one slot.

    `lo ≤ settled ≤ at ≤ limit ≤ hi`: [settled, at) has ended and is not accounted; `at` is running or next; [limit,
    hi) will not be started here and has to be handed back.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.settled = claim.lo
        self.at = claim.lo
        self.limit = claim.hi
        self.hi = claim.hi
        #: The sample at `limit` had been started before it was given up: it resumes.
        self.is_limit_started = False
        #: It was handed back because a sample ran so long for a bite.
        self.slow_ms = 0
        self.is_lost = False
        #: It was lost because the server does not know its study any more: nobody else has it.
        self.is_study_gone = False
        #: Its slot is through with it.
        self.is_done = False
        self.execution: Execution | None = None
        #: Its sample has ended, and what it left is being kept.
        self.is_keeping = False
        #: The CPUs and GPUs that its samples may use.
        self.grant = NO_GRANT
        #: The sample after the one that runs; between two samples, the next one.
        self.prepared: Prepared | None = None
        #: Or it was started, behind the one that runs: it begins by itself when that has ended.
        self.following: Execution | None = None
        self.ending: Ending | None = None
        #: When what runs is killed, on the monotonic clock.
        self.kill_at = 0.0
        self._outcomes: list[tuple[Outcome, Exit | None]] = []
        self._taken_at = self._settled_at = time.monotonic()

    def note(self, outcome: Outcome, end: Exit | None) -> None:
        """The sample at `at` came to this."""
        self._outcomes.append((outcome, end))
        self.at += 1

    def stop_after_current(self) -> None:
        """Start nothing more: what is unstarted goes back."""
        if self.following is not None and self.following.take_back():
            self.following = None
        started = (self.execution is not None) + (self.following is not None)
        self.limit = min(self.limit, self.at + started)

    def drain(self) -> None:
        """Start nothing more. A job is left: it goes on, and who claims the sample next awaits it."""
        self.stop_after_current()
        if self.execution and isinstance(self.execution.process, JobProcess):
            self.end_now(Ending.DRAINED)

    def end_now(self, why: Ending) -> None:
        """Start nothing more and end what runs. What ends sooner beats what was asked before."""
        self.stop_after_current()
        self.is_lost |= why is Ending.LOST
        if self.ending is not None and self.ending.value <= why.value:
            return
        self.ending = why
        self.kill_at = time.monotonic() + why.value
        for execution in (self.execution, self.following):
            if execution is None:
                continue
            process = execution.process
            if isinstance(process, JobProcess) and why is not Ending.CANCELLED and not self.is_study_gone:
                process.leave()
            else:
                process.signal(signal.SIGTERM if why.value else signal.SIGKILL)

    @property
    def unsettled(self) -> int:
        """How many samples have ended and are not accounted."""
        return self.at - self.settled

    @property
    def unsettled_s(self) -> float:
        """Seconds since the last settlement."""
        return time.monotonic() - self._settled_at

    @property
    def held_s(self) -> float:
        """Seconds since it was taken."""
        return time.monotonic() - self._taken_at

    @property
    def left_ms(self) -> float:
        """How long it is expected to take still; 0: any moment, or nobody knows."""
        elapsed_s = self.execution.process.elapsed_s if self.execution else 0.0
        return max(0.0, (self.limit - self.at) * self.claim.pace_ms - 1000 * elapsed_s)

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
        told = tuple(OutcomeRun(count, one.state.value, one.resume, int(one.flags)) for one, count in runs)
        return Settlement(self.claim.text, self.settled, upto, told, elapsed_ms), reasons

    def accounted(self, upto: int) -> None:
        """The server has accounted everything below `upto`."""
        del self._outcomes[: upto - self.settled]
        self.settled = upto
        self._settled_at = time.monotonic()

    def ended_outcomes(self) -> list[tuple[Outcome, Exit | None]]:
        """Everything that has ended and is not accounted, in order."""
        return list(self._outcomes)


def _counts_alike(one: Outcome, other: Outcome) -> bool:
    """Whether the server accounts them alike: reasons are told one by one."""
    return (one.state, one.resume, one.flags) == (other.state, other.resume, other.flags)
