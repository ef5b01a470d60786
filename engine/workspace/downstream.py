"""Which samples depend on some that run again: sample by sample along *each* edges, as a whole along the others."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import TopologicalSorter
from typing import TypeAlias

from mrun.engine.lazy import np, npt
from mrun.engine.plan.model import Plan

#: For each node an array of bool, shape (samples of the node,).
Choice: TypeAlias = "list[npt.NDArray[np.bool_]]"


def with_downstream(plan: Plan, again: Choice) -> Choice:
    """Add to `again`, in place, everything that depends on something in it; returns it."""
    barred: dict[int, list[int]] = {step.index: [] for step in plan.steps}
    for barrier in plan.barriers:
        barred[barrier.child].append(barrier.parent)
    is_any = [False] * len(plan.steps)
    for index in _steps_in_order(plan, barred):
        step = plan.steps[index]
        is_behind = any(is_any[parent] for parent in barred[index])
        for number in range(step.first_node, step.first_node + step.node_count):
            node, own = plan.nodes[number], again[number]
            if is_behind or any(again[parent].any() for parent in node.all_parents):
                own[:] = True
            for parent in node.each_parents:
                own |= again[parent]
            is_any[index] |= bool(own.any())
    return again


def _steps_in_order(plan: Plan, barred: dict[int, list[int]]) -> Iterable[int]:
    """Steps, each after all that it depends on."""
    parents = {index: set(before) for index, before in barred.items()}
    for node in plan.nodes:
        parents[node.step] |= {plan.nodes[parent].step for parent in (*node.all_parents, *node.each_parents)}
    return TopologicalSorter(parents).static_order()
