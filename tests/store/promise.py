"""A small model of the store's promise in plain Python: which samples wait, may run, are skipped, or have ended.

It knows the rules of blocking and skipping, and nothing of ranges, bitmaps, streams or pieces of work.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mrun.engine.plan.model import Plan

WAITING, OPEN, SKIPPED = "waiting", "open", "skipped"
#: Seconds of the lease that the workers of the model ask for: nothing expires by itself within a test.
LEASE_S = 600


@dataclass(frozen=True)
class End:
    """How a sample ended."""

    state: str
    is_blocking: bool = False


@dataclass(frozen=True)
class Past:
    """What a sample carries from one claim to the next."""

    attempt: int = 0
    losses: int = 0
    resume: int = 0


@dataclass
class Held:
    """A claim, as the server has it."""

    study: str
    node: int
    lo: int
    hi: int


@dataclass
class Promise:
    """A study."""

    study: str
    plan: Plan
    ends: dict[tuple[int, int], End] = field(default_factory=dict)
    pasts: dict[tuple[int, int], Past] = field(default_factory=dict)
    #: Nothing of it is released or claimed any more; and as what it ends then.
    is_stopped: bool = False
    outcome: str = "finished"
    is_purged: bool = False

    def size(self, node: int) -> int:
        return self.plan.size(self.plan.steps[self.plan.nodes[node].step])

    def places(self) -> list[list[str | End]]:
        """For each node, for each sample: WAITING, OPEN, SKIPPED, or its End."""
        places: list[list[str | End]] = []
        for index, node in enumerate(self.plan.nodes):
            whole = [places[parent] for parent in node.all_parents]
            for barrier in self.plan.barriers:
                if barrier.child == node.step:
                    step = self.plan.steps[barrier.parent]
                    whole += places[step.first_node : step.first_node + step.node_count]
            if not all(is_ended(place) for parent in whole for place in parent):
                places.append([WAITING] * self.size(index))
            elif any(all(is_blocking(place) for place in parent) for parent in whole):
                places.append([SKIPPED] * self.size(index))
            else:
                parents = [places[parent] for parent in node.each_parents]
                places.append([self._place(index, i, [p[i] for p in parents]) for i in range(self.size(index))])
        return places

    def _place(self, node: int, sample: int, parents: list[str | End]) -> str | End:
        if not all(is_ended(parent) for parent in parents):
            return WAITING
        if any(is_blocking(parent) for parent in parents):
            return SKIPPED
        return self.ends.get((node, sample), OPEN)

    def is_over(self) -> bool:
        return all(is_ended(place) for node in self.places() for place in node)

    def counts(self, step: int) -> Counter[str]:
        """Samples of a step that have ended, by state."""
        of_step = self.plan.steps[step]
        nodes = range(of_step.first_node, of_step.first_node + of_step.node_count)
        places = self.places()
        flat = [place for node in nodes for place in places[node]]
        return Counter(place.state if isinstance(place, End) else place for place in flat)

    def past(self, node: int, sample: int) -> Past:
        return self.pasts.get((node, sample), Past())

    def step_of(self, node: int):
        return self.plan.steps[self.plan.nodes[node].step]


def is_ended(place: str | End) -> bool:
    return isinstance(place, End) or place == SKIPPED


def is_blocking(place: str | End) -> bool:
    return place.is_blocking if isinstance(place, End) else place == SKIPPED
