"""Plan ↔ the fields of `study:<s>:plan`.

In the clear, for the moves: sizes, edges, queues. Sealed, for workers: everything that says what runs. Nothing in it
grows with the number of samples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec

from mrun.engine.errors import NotFoundError
from mrun.engine.plan.model import Plan, PlanStep, Terms
from mrun.engine.records import failure_flags
from mrun.engine.store.schema import TERMS, InstanceRow, ShapeRow, StepRow
from mrun.engine.store.seal import Seal

#: Children in one field: what a move reads and works off at once.
_CHILDREN_A_FIELD = 128
#: Streams named in one field.
_STREAMS_A_FIELD = 100
#: Version of the sealed records; a worker of another version refuses them with a sentence.
PLAN_VERSION = 3

_encode = msgspec.msgpack.encode
_SEALED_PLAN_FIELD = "sealed:plan"


def encode_plan(plan: Plan, study: str, seal: Seal, *, has_past: bool = False) -> Iterator[tuple[str, bytes]]:
    """The fields, one by one; each at most a few kilobytes but for long templates and parameter tables.

    Args:
        has_past: an earlier run brought some samples to their end.
    """
    yield "shape", _encode(ShapeRow(len(plan.nodes), len(plan.steps)))
    yield from _clear_steps(plan, has_past)
    yield from _clear_nodes(plan)
    yield from _streams(plan)
    yield from _sealed(plan, study, seal)


def encode_growth(plan: Plan, study: str, seal: Seal) -> Iterator[tuple[str, bytes]]:
    """The fields that change when samples are added to a study of which the server holds the plan."""
    # Whether an earlier run brought some samples to their end is not asked again: to look for none costs little.
    yield from _clear_steps(plan, has_past=True)
    yield from _sealed(plan, study, seal)


def growing_steps(plan: Plan) -> list[tuple[int, int]]:
    """The steps with samples; and whether (1 or 0) some node waits for all samples of one node of the step."""
    waited_for = {plan.nodes[parent].step for node in plan.nodes for parent in node.all_parents}
    return [(step.index, int(step.index in waited_for)) for step in plan.steps if step.uses_samples]


def _sealed(plan: Plan, study: str, seal: Seal) -> Iterator[tuple[str, bytes]]:
    shared = msgspec.structs.replace(plan, nodes=(), steps=(), barriers=(), warnings=())
    yield _SEALED_PLAN_FIELD, seal.close(_encode([PLAN_VERSION, shared]), study, _SEALED_PLAN_FIELD)
    for step in plan.steps:
        field = f"sealed:step:{step.index}"
        yield field, seal.close(_encode(step), study, field)


def _clear_steps(plan: Plan, has_past: bool) -> Iterator[tuple[str, bytes]]:
    after: dict[int, list[int]] = defaultdict(list)
    before: dict[int, int] = defaultdict(int)
    for barrier in plan.barriers:
        after[barrier.parent].append(barrier.child)
        before[barrier.child] += 1
    for step in plan.steps:
        row = StepRow(
            size=plan.size(step),
            **dict(zip(TERMS, _clear_terms(step), strict=True)),
            first_instance=step.first_node,
            instances=step.node_count,
            after=tuple(after[step.index]),
            barriers=before[step.index],
            has_past=int(has_past),
            has_grown=int(plan.samples is not None and bool(plan.samples.parts)),
        )
        yield f"step:{step.index}", _encode(row)


def _clear_nodes(plan: Plan) -> Iterator[tuple[str, bytes]]:
    each: dict[int, list[int]] = defaultdict(list)
    every: dict[int, list[int]] = defaultdict(list)
    for index, node in enumerate(plan.nodes):
        for parent in node.each_parents:
            each[parent].append(index)
        for parent in node.all_parents:
            every[parent].append(index)
    queues = queues_of_steps(plan)
    for index, node in enumerate(plan.nodes):
        each_parts, all_parts = _parts(each[index]), _parts(every[index])
        step = plan.steps[node.step]
        terms = step.terms(index)
        row = InstanceRow(
            node.step,
            node.queue,
            queues[node.step].index(node.queue),
            len(node.all_parents),
            tuple(node.each_parents),
            len(each_parts),
            len(all_parts),
            # Instances that have the terms of their step do not carry them.
            () if terms is step else _clear_terms(terms),
        )
        yield f"instance:{index}", _encode(row)
        for number, part in enumerate(each_parts):
            yield f"each:{index}:{number}", _encode(part)
        for number, part in enumerate(all_parts):
            yield f"all:{index}:{number}", _encode(part)


def queues_of_steps(plan: Plan) -> list[list[str]]:
    """The queues of each step's instances, in order."""
    queues: list[set[str]] = [set() for _ in plan.steps]
    for node in plan.nodes:
        queues[node.step].add(node.queue)
    return [sorted(names) for names in queues]


def _clear_terms(terms: Terms) -> tuple[Any, ...]:
    """What the moves know of the terms, as `TERMS`; a share of samples that may fail is text, its percents."""
    most: int | str = -1 if terms.max_fails is None else terms.max_fails
    return (
        terms.resource_class,
        terms.max_losses,
        terms.chunk or 0,
        round(terms.retry_delay_s * 1000),
        int(failure_flags(terms.on_failure)),
        most if terms.max_fails_percent is None else str(terms.max_fails_percent),
    )


def _parts(children: list[int]) -> list[list[int]]:
    return [children[at : at + _CHILDREN_A_FIELD] for at in range(0, len(children), _CHILDREN_A_FIELD)]


def _streams(plan: Plan) -> Iterator[tuple[str, bytes]]:
    pairs = sorted(
        {(node.queue, plan.steps[node.step].terms(index).resource_class) for index, node in enumerate(plan.nodes)}
    )
    for number, at in enumerate(range(0, len(pairs), _STREAMS_A_FIELD)):
        yield f"streams:{number}", _encode(pairs[at : at + _STREAMS_A_FIELD])


def sealed_fields(step_count: int) -> list[str]:
    """The fields that `decode_plan` takes, in order."""
    return [_SEALED_PLAN_FIELD, *(f"sealed:step:{index}" for index in range(step_count))]


def decode_plan(fields: list[bytes | None], study: str, seal: Seal) -> Plan:
    """The plan as a worker needs it: with its steps, without nodes and edges.

    Raises:
        NotFoundError: the server does not hold the study's plan any more.
        SealError: it was queued under another key, by another version, or was changed.
    """
    texts = [field for field in fields if field is not None]
    if len(texts) != len(fields) or not fields:
        raise NotFoundError(f"The server does not hold the plan of study '{study}' any more.")
    names = sealed_fields(len(fields) - 1)
    version, raw = msgspec.msgpack.decode(seal.open(texts[0], study, names[0]), type=tuple[int, msgspec.Raw])
    if version != PLAN_VERSION:
        raise NotFoundError(
            f"Study '{study}' was queued by another version of mrun (plan {version}, this one reads {PLAN_VERSION}).",
            hint="Start workers of the version that queued it.",
        )
    shared = msgspec.msgpack.decode(raw, type=Plan)
    steps = tuple(
        msgspec.msgpack.decode(seal.open(text, study, name), type=PlanStep)
        for name, text in zip(names[1:], texts[1:], strict=True)
    )
    return msgspec.structs.replace(shared, steps=steps)
