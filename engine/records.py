"""What crosses between the store, the worker and the command line. All frozen; wire forms are arrays."""

from __future__ import annotations

import enum

import msgspec

#: Values of `resume` of a task: its samples begin anew; the last execution ended with RESTART, or was interrupted, so
#: that `restart` is run instead of `cmd`; a worker left them behind, and the files of each tell whether it was started.
BEGINS, RESUMES, MAY_HAVE_STARTED = 0, 1, 2


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """Samples [lo, hi) of a node in one attempt, that one slot of one worker owns."""

    number: int
    study: str
    node: int
    lo: int
    hi: int
    attempt: int
    losses: int
    resume: int
    #: How many times samples had been added to the study: a worker's plan of it must be of this edition, or later.
    edition: int = 0

    @property
    def text(self) -> str:
        """The number as Redis keys hold it."""
        return str(self.number)


class SampleState(enum.StrEnum):
    """What a sample's execution came to. The last one is not an end: the sample will run again."""

    FINISHED = "finished"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    RETRY = "retry"


class Flags(enum.IntFlag):
    """What else a run of outcomes does."""

    NONE = 0
    BLOCKING = 1
    STOPS_STUDY = 2
    STOPS_WORKERS = 4


def failure_flags(on_failure: str) -> Flags:
    """What a failed sample does besides, by its step's `on_failure`."""
    if on_failure == "skip":
        return Flags.BLOCKING
    return Flags.BLOCKING | Flags.STOPS_STUDY if on_failure == "abort" else Flags.NONE


class OutcomeRun(msgspec.Struct, frozen=True, array_like=True):
    """`count` consecutive samples of a claim that ended alike."""

    count: int
    state: str
    resume: int = 0
    flags: int = 0


class Settlement(msgspec.Struct, frozen=True, array_like=True):
    """What happened to samples [lo, upto) of one claim. Counts of `runs` add up to upto - lo."""

    claim: str
    lo: int
    upto: int
    runs: tuple[OutcomeRun, ...]
    elapsed_ms: float
    #: (sample, sealed text); text, because the moves' msgpack knows no binary.
    reasons: tuple[tuple[int, str], ...] = ()


class ClaimRequest(msgspec.Struct, frozen=True, array_like=True):
    """What a worker wants to claim."""

    free_slots: int
    queues: tuple[str, ...]
    unwanted_studies: tuple[str, ...] = ()
    #: Only this study and those that its steps queued; empty: any.
    root_study: str = ""
    #: Until the worker's allocation ends; -1: never.
    time_left_ms: int = -1


class ClaimAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What a worker got."""

    status: str
    claims: tuple[Claim, ...]
    has_more_work: int
    due_ms: int
    #: Nobody sweeps the server: who beats next does.
    is_untended: int


class SettleAnswer(msgspec.Struct, frozen=True, array_like=True):
    """One word for each settlement: ok, lost, gone or stopping; and when the next retry is due (-1: none)."""

    answers: tuple[str, ...]
    due_ms: int
    #: Nodes of which the last sample was settled.
    ended_nodes: int = 0


class WorkerFacts(msgspec.Struct, frozen=True):
    """What others may know of a worker."""

    host: str
    pid: int
    queues: tuple[str, ...]
    slots: int
    #: Until its allocation ends, when it is told; -1: never. A duration, for clocks of hosts differ.
    time_left_ms: int = -1
    version: str = ""
    #: What the spec calls it; empty: nothing.
    name: str = ""


class BeatAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What a beat tells. `lost` and `kill` are claim numbers as text."""

    status: str
    lost: tuple[str, ...]
    kill: tuple[str, ...]
    request: str
    sweep_in_ms: int
    due_ms: int


class ReclaimAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What a sweep did."""

    removed_workers: tuple[str, ...]
    is_outage: int
    sweep_in_ms: int


class CancelAnswer(msgspec.Struct, frozen=True, array_like=True):
    """ok, gone or ended; and how many samples were running."""

    status: str
    running: int
