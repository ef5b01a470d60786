"""Circles in a graph of dependencies: the standard library finds one, this finds the others as well."""

from __future__ import annotations

import graphlib
from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def find_circles(graph: Mapping[T, Collection[T]]) -> Iterator[list[T]]:
    """The circles of a graph, none of which shares a member with another one.

    Args:
        graph: whom each member depends on. Members that are not among its keys depend on nobody.

    Yields:
        The members of a circle, each once: each depends on the next, and the last on the first, which is the one that
        comes first in the graph.
    """
    left = dict(graph)
    order = {member: number for number, member in enumerate(graph)}
    while True:
        try:
            graphlib.TopologicalSorter(left).prepare()
        except graphlib.CycleError as error:
            # graphlib names the one that is depended on first, and the first one twice.
            circle: list[T] = list(reversed(error.args[1][1:]))
            first = min(range(len(circle)), key=lambda index: order[circle[index]])
            yield circle[first:] + circle[:first]
            left |= dict.fromkeys(circle, ())
        else:
            return
