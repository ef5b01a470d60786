"""A view of classes: what claims of a study take of a worker, and what no worker has. Never a write."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from mrun.engine.resources import CPUS, JOBS, SLOTS, Amounts, lacking, read_demands, read_resources
from mrun.engine.store.store import Store
from mrun.engine.store.views import Inspection, WorkerStatus


class ClassFacts(msgspec.Struct, frozen=True):
    """A class: its steps, and what a claim of it takes of its worker."""

    steps: tuple[str, ...]
    amounts: dict[str, int]


class Stranded(msgspec.Struct, frozen=True):
    """Samples that are ready, and that no worker of their queue can run: `needs` is what these have too little of."""

    queue: str
    study: str
    steps: tuple[str, ...]
    needs: dict[str, int]


async def class_facts(store: Store, study: str) -> list[ClassFacts]:
    """The classes of a study; none if the server does not know it."""
    names, demands = await store.look("HMGET", store.keys.study(study), "class_steps", "demands") or (None, None)
    try:
        steps = msgspec.json.decode(names or b"[]", type=list[tuple[str, ...]])
    except ValueError:
        return []  # somebody damaged it, and the study will fail for it
    return [ClassFacts(own, one.amounts) for own, one in zip(steps, read_demands(demands, len(steps)), strict=True)]


async def find_stranded(store: Store, found: Inspection, studies: Collection[str] | None = None) -> list[Stranded]:
    """What waits for a worker with more, of these studies or of any. Queues without any worker are not looked at."""
    stranded = []
    for row in found.queues:
        workers = [one for one in found.workers if row.queue in one.queues]
        if not row.ready or not workers or (studies is not None and row.study not in studies):
            continue
        for number, facts in enumerate(await class_facts(store, row.study)):
            needed = _lacking(facts.amounts, workers)
            if needed and await store.look("XLEN", store.keys.stream(row.queue, row.study, number)):
                stranded.append(Stranded(row.queue, row.study, facts.steps, needed))
    return stranded


def _lacking(amounts: Amounts, workers: Sequence[WorkerStatus]) -> dict[str, int]:
    """What the worker lacks that lacks the least, and how much is needed; {} if there is one that lacks nothing."""
    lacks = min((lacking(_asked(amounts, one), read_resources(one.resources).amounts) for one in workers), key=len)
    return {name: amounts[name] for name in lacks}


def _asked(amounts: Amounts, worker: WorkerStatus) -> dict[str, int]:
    """What a worker is asked for: every one has slots and jobs, and CPUs that were only found are always enough."""
    free = {SLOTS, JOBS, *(() if worker.has_told_cpus else (CPUS,))}
    return {name: amount for name, amount in amounts.items() if name not in free}
