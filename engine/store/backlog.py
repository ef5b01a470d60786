"""What waits for workers on some queues, as far as a worker of a given kind could run it. Never a write.

Cost: O(studies), and where only some of a study's classes fit, O(ranges that are ready), up to a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from mrun.engine.resources import read_demands
from mrun.engine.store.store import Store
from mrun.engine.store.views import UNFINISHED, WorkerStatus, on_queue, step_facts, texts, whole

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
    #: Samples that are ready, by queue.
    ready: dict[str, int]
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
            for queue in study.ready:
                ready += await _ready(store, study, queue, fitting)
        # A study of which nothing fits is nothing to come for, and may be another allocation's.
        if fitting and not has_worker:
            is_stranded = is_stranded or study.running > 0 or await _is_due(store, study.study, now_ms)
    return Backlog(ready, is_stranded, bool(studies))


async def _unfinished(store: Store, queues: Sequence[str]) -> list[_Study]:
    """The studies that have not ended, and use one of the queues."""
    found = []
    names = [raw.decode() for raw in await store.call("ZRANGE", store.keys.studies, 0, -1)]
    for study, reply in zip(names, await store.look_at([("HGETALL", store.keys.study(s)) for s in names]), strict=True):
        raw = texts(reply)
        shared = tuple(name for name in raw.get("queues", "").split(",") if name in queues)
        if raw.get("state") not in UNFINISHED or not shared:
            continue
        is_claimable = raw["state"] == "running" and raw.get("is_held") != "1"
        classes = tuple(_classes(raw.get("walltimes", "[0]"), raw.get("demands", "").encode() or None))
        steps = step_facts(raw.get("steps", "[]"))
        ready = {queue: on_queue(raw, steps, queue, "ready") for queue in shared}
        found.append(_Study(study, is_claimable, ready, whole(raw.get("running")), classes))
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
    ready = study.ready[queue]
    if not ready or len(fitting) == len(study.classes):
        return ready
    counted = [await _in_stream(store, study.study, store.keys.stream(queue, study.study, one)) for one in fitting]
    return min(ready, sum(counted))


async def _in_stream(store: Store, study: str, stream: str) -> int:
    """Samples in a stream."""
    entries = await store.look("XRANGE", stream, "-", "+", "COUNT", _ENTRIES_MOST) or []
    return sum([await _in_entry(store, study, fields) for _, fields in entries])


async def _in_entry(store: Store, study: str, fields: Any) -> int:
    """Samples of an entry: a range, or scattered ones under a name."""
    task = _paired(fields)[b"t"].decode(errors="replace")
    if task.startswith("*"):
        return whole(await store.look("HGET", store.keys.scattered(study), task[1:]))
    numbers = task.split()
    return whole(numbers[3]) - whole(numbers[2]) if len(numbers) > 3 else 0


async def _is_due(store: Store, study: str, now_ms: int) -> bool:
    """Whether a retry of the study is due, or something is to be done for it."""
    due_ms = await store.call("ZSCORE", store.keys.later, study)
    todo = await store.call("ZSCORE", store.keys.todo, study)
    return todo is not None or (due_ms is not None and float(due_ms) <= now_ms)


def _paired(reply: Any) -> dict[bytes, Any]:
    """Field and value, …, as a dict or flat."""
    return dict(reply) if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
