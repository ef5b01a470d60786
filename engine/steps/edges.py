"""Nodes and their edges: who waits for whom, sample by sample or for all."""

from __future__ import annotations

from collections.abc import Sequence

from mrun.engine.plan.model import Barrier, Node, PlanParameter, Template, Token, TokenKind
from mrun.engine.steps.expand import Combinations
from mrun.engine.steps.steps import DraftStep


def make_nodes(
    steps: Sequence[DraftStep],
    combinations: Sequence[Combinations],
    queues: Sequence[Template],
    parameters: Sequence[PlanParameter],
) -> tuple[Node, ...]:
    """Every node, step by step in file order, the nodes of a step in row order. Linear in nodes and edges.

    Args:
        combinations: of each step.
        queues: the queue's name of each step; its holes are parameters.
    """
    first_nodes = number_nodes(combinations)
    nodes: list[Node] = []
    for step in steps:
        own = combinations[step.index]
        all_columns: list[list[int]] = []
        each_columns: list[list[int]] = []
        for parent in step.ordinary:
            if parent in step.starred:
                continue  # the barrier already makes every node wait for every node of it
            is_each = step.uses_samples and steps[parent].uses_samples
            column = _parent_column(own, combinations[parent], first_nodes[parent])
            (each_columns if is_each else all_columns).append(column)
        count = len(own.names)
        names = _queue_names(queues[step.index], own, parameters)
        alls = zip(*all_columns, strict=True) if all_columns else [()] * count
        eaches = zip(*each_columns, strict=True) if each_columns else [()] * count
        nodes.extend(
            Node(step.index, queue, all_parents, each_parents)
            for queue, all_parents, each_parents in zip(names, alls, eaches, strict=True)
        )
    return tuple(nodes)


def make_barriers(steps: Sequence[DraftStep]) -> tuple[Barrier, ...]:
    """A barrier for every starred dependency."""
    return tuple(Barrier(parent, step.index) for step in steps for parent in step.starred)


def number_nodes(combinations: Sequence[Combinations]) -> tuple[int, ...]:
    """The number of each step's first node."""
    numbers = []
    next_number = 0
    for combination in combinations:
        numbers.append(next_number)
        next_number += len(combination.names)
    return tuple(numbers)


def _parent_column(own: Combinations, parent: Combinations, first_node: int) -> list[int]:
    """The parent's node of the same row, for each node of a step."""
    if not parent.rows:
        return [first_node] * len(own.names)
    return [first_node + parent.of_row[row] for row in own.rows]


def _queue_names(queue: Template, own: Combinations, parameters: Sequence[PlanParameter]) -> list[str]:
    if not any(isinstance(part, Token) for part in queue):
        return ["".join(part for part in queue if isinstance(part, str)).strip()] * len(own.names)
    by_name = {parameter.name: parameter for parameter in parameters}
    columns = []
    for part in queue:
        if isinstance(part, str):
            columns.append([part] * len(own.rows))
        else:
            parameter = by_name[part.argument]
            texts = parameter.values if part.kind is TokenKind.PARAMETER else parameter.labels
            columns.append([texts[row] for row in own.rows])
    return ["".join(texts).strip() for texts in zip(*columns, strict=True)]
