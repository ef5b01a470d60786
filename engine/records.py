"""What crosses between the store, the worker and the command line. All frozen; wire forms are arrays."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from mrun.engine.resources import CPUS, SLOTS


class Resume(enum.IntEnum):
    """What is known of the execution before, of the samples of a task. `losses` does not tell it: they stay."""

    #: The samples begin anew.
    BEGINS = 0
    #: The last execution ended with RESTART, or was interrupted: `restart` is run instead of `cmd`.
    RESUMES = 1
    #: A worker left the samples behind. The files of each tell whether it was started.
    MAY_HAVE_STARTED = 2
    #: A worker left samples behind that were to resume.
    LEFT_RESUMING = 3


BEGINS, RESUMES, MAY_HAVE_STARTED, LEFT_RESUMING = map(int, Resume)


class WorkerAnswer(enum.StrEnum):
    """What the server says to a worker that claims or beats."""

    OK = "ok"
    #: The server does not know the worker: it has to beat with its facts.
    UNKNOWN = "unknown"
    #: Somebody asked the worker to claim nothing more.
    DRAIN = "drain"


class SettleResult(enum.StrEnum):
    """What the server says to a settlement."""

    OK = "ok"
    #: The claim is another worker's by now: nothing was accounted.
    LOST = "lost"
    #: The study is gone: nothing was accounted.
    GONE = "gone"
    #: It was accounted; nothing more of the study is to be started.
    STOPPING = "stopping"


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """Samples [lo, hi) of a node in one attempt, that one slot of one worker owns."""

    number: int
    study: str
    node: int
    lo: int
    hi: int
    attempt: int
    losses: int
    #: A `Resume`.
    resume: int
    #: How many times samples had been added to the study: a worker's plan of it must be of this edition, or later.
    edition: int = 0
    #: What a sample of its node takes, as was measured; 0: nothing was.
    pace_ms: float = 0
    #: What it takes of the worker while it runs; nothing, if the request did not tell what there is.
    takes: dict[str, int] = {}

    @property
    def text(self) -> str:
        """What the server calls it."""
        return f"{self.number}:{self.study}"


class SampleState(enum.StrEnum):
    """What a sample's execution came to. The last one is not an end: the sample will run again."""

    FINISHED = "finished"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    RETRY = "retry"


class ReturnCode(enum.IntEnum):
    """Exit codes by which a step speaks to the engine."""

    SUCCESS = 0
    RESTART = 100
    SOFT_FAIL = 101
    HARD_FAIL = 102
    RETRY = 104
    STOP_WORKERS = 105
    RAISE_ERROR = 106


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


#: What an earlier run brought to its end, as fields of `study:<s>:past`: <node>:<chunk>:<kind> → number of bits, blank,
#: bitmap.
Past = Sequence[tuple[str, bytes]]


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


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """Room that is kept for a class, and what others of its priority or less may take meanwhile.

    Of `spare` they may take as they like, and of what else is free if they end within `window_ms`.
    """

    queue: str
    #: `<study>:<class>`.
    stream: str
    spare: dict[str, int]
    window_ms: int


class Room(msgspec.Struct, frozen=True, array_like=True):
    """Amounts of resources that a worker has, and that are free."""

    free: dict[str, int]
    total: dict[str, int]
    #: What needs more CPUs than there are is passed over. Otherwise it takes them all.
    is_strict: bool
    kept: Kept | None = None

    @property
    def can_start(self) -> bool:
        """Whether there is a slot, and a CPU for it."""
        return self.free.get(SLOTS, 0) > 0 and self.free.get(CPUS, 0) > 0


class ClaimRequest(msgspec.Struct, frozen=True, array_like=True):
    """What a worker wants to claim."""

    #: Claims that it can run, where `room` does not say more.
    free_slots: int
    queues: tuple[str, ...]
    unwanted_studies: tuple[str, ...] = ()
    #: Only this study and those that its steps queued; empty: any.
    root_study: str = ""
    #: Until the worker's allocation ends; -1: never.
    time_left_ms: int = -1
    #: None: `free_slots` is all that counts.
    room: Room | None = None


class Waiting(msgspec.Struct, frozen=True, array_like=True):
    """A class whose turn has come, and that did not fit into what is free."""

    queue: str
    stream: str
    needs: dict[str, int]


class ClaimAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What a worker got, and what of its queues was passed over for want of room."""

    status: str
    claims: tuple[Claim, ...]
    has_more_work: int
    due_ms: int
    #: Nobody sweeps the server: who beats next does.
    is_untended: int
    #: The first in turn, or none.
    waiting: tuple[Waiting, ...] = ()
    #: Streams whose classes this worker can never run.
    unfit: tuple[str, ...] = ()
    #: Something would have fitted, but for the room that is kept.
    is_kept: int = 0


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
    #: As `--resources` is written; and whether its CPUs were told, or only found.
    resources: str = "cpus=1"
    has_told_cpus: bool = False


class BeatRequest(msgspec.Struct, frozen=True, array_like=True):
    """A worker's sign of life."""

    lease_ms: int
    #: The claims that it has, and the highest number of one that it has seen.
    claims: tuple[str, ...]
    highest: str
    is_draining: bool
    #: What others may know of it, as field, value, …: only if it is to be registered.
    facts: tuple[str | int, ...] = ()
    #: Until its allocation ends; -1: never.
    time_left_ms: int = -1


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
