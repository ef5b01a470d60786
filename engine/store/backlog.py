"""What waits for workers on some queues, as far as a worker of a given kind could run it. Never a write.

Cost: O(studies), and where only some of a study's classes fit, O(ranges that are ready), up to a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from mrun.engine.errors import NotFoundError
from mrun.engine.resources import read_demands
from mrun.engine.store.store import Store
from mrun.engine.store.views import UNFINISHED, WorkerStatus, whole

#: Entries of a stream that are counted. More of them are samples enough for any number of jobs.
_ENTRIES_MOST = 5000


class ClassNeeds(msgspec.Struct, frozen=True):
    """What the samples of a class need of a worker: seconds (0: it does not matter), and amounts of its resources."""

    walltime_s: float
    amounts: dict[str, int]


class Backlog(msgspec.Struct, frozen=True):
    """What waits.

    Attributes:
        ready: samples that a worker of the kind could claim now.
        is_stranded: there is something that any worker would see to, and no worker: retries that are due, samples of
            workers that died, a release that is not complete.
        is_unfinished: a study that has not ended has, or may yet have, samples on the queues.
    """

    ready: int
    is_stranded: bool
    is_unfinished: bool

    @property
    def samples(self) -> int:
        """For how many samples a worker is missed: whoever sees to what is stranded may find more."""
        return max(self.ready, int(self.is_stranded))


class _Study(msgspec.Struct, frozen=True):
    """What is read of a study."""

    study: str
    is_claimable: bool
    queues: tuple[str, ...]
    running: int
    classes: tuple[ClassNeeds, ...]


async def look_at_backlog(
    store: Store,
    queues: Sequence[str],
    workers: Sequence[WorkerStatus],
    now_ms: int,
    fits: Callable[[ClassNeeds], bool],
) -> Backlog:
    """What waits on the queues.

    Args:
        workers: all that live.
        now_ms: by the server's clock.
        fits: whether the samples of a class could run.
    """
    has_worker = any(set(worker.queues) & set(queues) for worker in workers)
    ready, is_stranded = 0, False
    studies = await _unfinished(store, queues)
    for study in studies:
        fitting = [number for number, needs in enumerate(study.classes) if fits(needs)]
        if study.is_claimable and fitting:
            for queue in study.queues:
                ready += await _ready(store, study, queue, fitting)
        # A study of which nothing fits is nothing to come for, and may be another allocation's.
        if fitting and not has_worker:
            is_stranded = is_stranded or study.running > 0 or await _is_due(store, study.study, now_ms)
    return Backlog(ready, is_stranded, bool(studies))


async def _unfinished(store: Store, queues: Sequence[str]) -> list[_Study]:
    """The studies that have not ended, and use one of the queues."""
    found = []
    for raw in await store.call("ZRANGE", store.keys.named("studies"), 0, -1):
        fields = ("state", "is_held", "queues", "running", "walltimes", "demands")
        told = await store.look("HMGET", store.keys.study(raw.decode()), *fields) or [None] * len(fields)
        *facts, demands = told
        state, is_held, names, running, walltimes = (value and value.decode(errors="replace") for value in facts)
        shared = tuple(name for name in (names or "").split(",") if name in queues)
        if state not in UNFINISHED or not shared:
            continue
        is_claimable = state == "running" and is_held != "1"
        classes = tuple(_classes(walltimes or "[0]", demands))
        found.append(_Study(raw.decode(), is_claimable, shared, whole(running), classes))
    return found


def _classes(walltimes: str, demands: bytes | None) -> Iterator[ClassNeeds]:
    """The classes of a study, by what its hash says."""
    try:
        seconds = msgspec.json.decode(walltimes, type=list[float])
    except ValueError:
        return  # somebody damaged it, and the study will fail for it
    for walltime_s, demand in zip(seconds, read_demands(demands, len(seconds)), strict=True):
        yield ClassNeeds(walltime_s, demand.amounts)


async def _ready(store: Store, study: _Study, queue: str, fitting: Sequence[int]) -> int:
    """Samples of a study on a queue that are ready, of the classes that fit."""
    ready = whole(await store.look("HGET", store.keys.study_queue(study.study, queue), "ready"))
    if not ready or len(fitting) == len(study.classes):
        return ready
    counted = [await _in_stream(store, study.study, store.keys.stream(queue, study.study, one)) for one in fitting]
    return min(ready, sum(counted))


async def _in_stream(store: Store, study: str, stream: str) -> int:
    """Samples in a stream that no worker has read."""
    try:
        groups = await store.look("XINFO", "GROUPS", stream)
    except NotFoundError:
        return 0  # streams that empty are deleted
    if groups is None:
        return 0
    facts = _paired(groups[0]) if groups else {}
    delivered = facts.get(b"last-delivered-id", b"0-0").decode()
    entries = await store.call("XRANGE", stream, f"({delivered}", "+", "COUNT", _ENTRIES_MOST)
    return sum([await _in_entry(store, study, fields) for _, fields in entries])


async def _in_entry(store: Store, study: str, fields: Any) -> int:
    """Samples of an entry: a range, or those that are loose under a name."""
    task = _paired(fields)[b"t"].decode(errors="replace")
    if task.startswith("*"):
        return whole(await store.look("HGET", store.keys.loose(study), task[1:]))
    numbers = task.split()
    return whole(numbers[2]) - whole(numbers[1]) if len(numbers) > 2 else 0


async def _is_due(store: Store, study: str, now_ms: int) -> bool:
    """Whether a retry of the study is due, or something is to be done for it."""
    due_ms = await store.call("ZSCORE", store.keys.named("later"), study)
    todo = await store.call("ZSCORE", store.keys.named("todo"), study)
    return todo is not None or (due_ms is not None and float(due_ms) <= now_ms)


def _paired(reply: Any) -> dict[bytes, Any]:
    """Field and value, …, as a dict or flat."""
    return dict(reply) if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
