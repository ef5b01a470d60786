"""Small plans by hand, and a worker that runs nothing: what the tests of the moves stand on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace

from mrun.engine.ids import new_study_id
from mrun.engine.plan.model import Barrier, Node, Plan, PlanStep, SampleTable
from mrun.engine.records import Claim, ClaimRequest, OutcomeRun, Past, Settlement, WorkerFacts
from mrun.engine.store.seal import Seal
from mrun.engine.store.store import Store
from mrun.engine.studies.enqueue import step_facts

SEAL = Seal(bytes(32))


@dataclass
class S:
    """A step: `after` names are parents (`x*` a barrier), joined sample by sample where both use samples."""

    name: str
    uses_samples: bool = True
    after: tuple[str, ...] = ()
    queue: str = "q"
    rows: int = 0
    options: dict[str, Any] = field(default_factory=dict)


def make_plan(samples: int, *steps: S) -> Plan:
    """A plan whose steps have one node each, or `rows` nodes that go row by row."""
    built: dict[str, PlanStep] = {}
    nodes: list[Node] = []
    barriers: list[Barrier] = []
    for index, s in enumerate(steps):
        step = PlanStep(
            index=index, name=s.name, directory=s.name, shell="/bin/sh", cmd=("true\n",), restart=None,
            uses_samples=s.uses_samples, first_node=len(nodes), rows=tuple(range(s.rows)), parameters=(),
            **s.options,
        )  # fmt: skip
        built[s.name] = step
        for name in s.after:
            if name.endswith("*"):
                barriers.append(Barrier(parent=built[name[:-1]].index, child=index))
        for row in range(s.rows or 1):
            each: list[Any] = []
            every: list[Any] = []
            for parent in (built[name] for name in s.after if not name.endswith("*")):
                node = parent.first_node + (row if parent.rows else 0)
                (each if parent.uses_samples and s.uses_samples else every).append(node)
            nodes.append(Node(step=index, queue=s.queue, all_parents=tuple(every), each_parents=tuple(each)))
    table = SampleTable(
        kind="npy", path="/nowhere.npy", count=samples, columns=("X",), size_bytes=0, mtime_ns=0, dtype="<f8"
    )
    return Plan(
        name="test", description="a test", workspace="/nowhere", spec_path="/nowhere.yaml", steps=tuple(built.values()),
        nodes=tuple(nodes), barriers=tuple(barriers), samples=table,
    )  # fmt: skip


def larger(plan: Plan, *counts: int) -> Plan:
    """The plan with so many samples added, part by part."""
    old = plan.samples
    assert old is not None
    parts = (*(old.parts or (old,)), *(replace(old, count=count) for count in counts))
    total = sum(part.count for part in parts)
    return replace(plan, samples=SampleTable("parts", "", total, old.columns, 0, 0, parts=parts))


async def submit(store: Store, plan: Plan, past: Past = (), **facts: object) -> str:
    """Submit and commit a study; returns its id."""
    study = new_study_id()
    count = await store.submit(study, plan, SEAL, past)
    words: list[str | int | bytes] = ["name", "test", "root", study, "walltimes", "[0,0,0]", "priority", 0]
    words += ["instances_left", len(plan.nodes), "step_count", len(plan.steps)]
    words += ["steps", msgspec.json.encode(step_facts(plan)), "queues", ",".join(sorted({n.queue for n in plan.nodes}))]
    for name, value in facts.items():
        words += [name, str(value)]
    await store.commit(study, count, words)
    return study


class IdleWorker:
    """Claims and settles like a worker, and runs nothing."""

    def __init__(self, store: Store, name: str, queues: tuple[str, ...] = ("q",), slots: int = 2) -> None:
        self.store, self.name, self.queues, self.slots = store, name, queues, slots
        self.claims: dict[int, Claim] = {}
        self.highest = 0
        #: How often each (study, node, sample) was settled for good.
        self.settled: Counter[tuple[str, int, int]] = Counter()

    async def beat(self, lease_s: float = 30, **words: bool):
        facts = WorkerFacts(host="h", pid=1, queues=self.queues, slots=self.slots)
        return await self.store.beat(self.name, lease_s, self.claims.values(), self.highest, facts=facts, **words)

    async def claim(self, free_slots: int | None = None, **words: Any) -> list[Claim]:
        request = ClaimRequest(free_slots or self.slots, self.queues, **words)
        answer = await self.store.claim(self.name, request)
        for claim in answer.claims:
            self.claims[claim.number] = claim
            self.highest = max(self.highest, claim.number)
        return list(answer.claims)

    async def settle(self, claim: Claim, *runs: OutcomeRun, lo: int | None = None) -> str:
        lo = claim.lo if lo is None else lo
        upto = lo + sum(run.count for run in runs)
        settlement = Settlement(claim.text, lo, upto, runs, elapsed_ms=1.0 * (upto - lo))
        answer = (await self.store.settle(self.name, [settlement])).answers[0]
        if answer in ("ok", "stopping"):
            at = lo
            for run in runs:
                if run.state != "retry":
                    self.settled.update((claim.study, claim.node, i) for i in range(at, at + run.count))
                at += run.count
        if upto == claim.hi or answer in ("lost", "gone"):
            self.claims.pop(claim.number, None)
        return answer

    async def drain(self, outcome: Callable[[Claim], list[OutcomeRun]] | None = None) -> list[Claim]:
        """Claim and settle until there is nothing more; returns the claims in the order they came."""
        seen: list[Claim] = []
        while claims := await self.claim():
            seen += claims
            for claim in claims:
                runs = outcome(claim) if outcome else [OutcomeRun(claim.hi - claim.lo, "finished")]
                await self.settle(claim, *runs)
        return seen


async def worker_of(store: Store, name: str = "w", queues: tuple[str, ...] = ("q",), slots: int = 2) -> IdleWorker:
    worker = IdleWorker(store, name, queues, slots)
    await worker.beat()
    return worker


async def state_of(store: Store, study: str) -> str:
    return (await store.client.hget(store.keys.study(study), "state") or b"gone").decode()


async def step_counts(store: Store, study: str, step: int) -> dict[str, int]:
    return {
        state: count
        for state, count in counts_of(await store.client.hgetall(store.keys.study(study)), step).items()
        if count
    }


def counts_of(raw: Any, step: int) -> dict[str, int]:
    """A step's samples by state, of the study's hash."""
    states = ("ready", "running", "retrying", "finished", "failed", "dead", "skipped", "cancelled")
    return {state: int(raw.get(f"{step}:{state}".encode(), 0)) for state in states}
