"""What depends on samples that run again, against a model that looks at one sample at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mrun.engine.plan.model import Plan
from mrun.engine.workspace.downstream import with_downstream
from tests.store.plans import S, make_plan

SAMPLES = 4


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Up to six steps, each after some of those before it, joined in any way; listed in any order of use."""
    steps: list[S] = []
    for number in range(draw(st.integers(1, 6))):
        after = []
        for parent in steps:
            how = draw(st.sampled_from(["", "", "plain", "star"]))
            # A step without rows can't go row by row with one that has them.
            if how == "star" or (how == "plain" and parent.rows):
                after.append(f"{parent.name}*")
            elif how == "plain":
                after.append(parent.name)
        rows = draw(st.sampled_from([0, 2]))
        steps.append(S(f"s{number}", draw(st.booleans()), tuple(after), rows=rows))
    return make_plan(SAMPLES, *steps)


def model(plan: Plan, chosen: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Add children of what is chosen until nothing changes."""
    every = {(n, i) for n, node in enumerate(plan.nodes) for i in range(plan.size(plan.steps[node.step]))}

    def is_behind(child: tuple[int, int], parent: tuple[int, int]) -> bool:
        node = plan.nodes[child[0]]
        if parent[0] in node.each_parents and parent[1] == child[1]:
            return True
        barred = {b.parent for b in plan.barriers if b.child == node.step}
        return parent[0] in node.all_parents or plan.nodes[parent[0]].step in barred

    while True:
        more = {child for child in every - chosen if any(is_behind(child, parent) for parent in chosen)}
        if not more:
            return chosen
        chosen = chosen | more


@given(plan=plans(), data=st.data())
def test_everything_behind_what_runs_again_runs_again_and_nothing_else(plan: Plan, data: st.DataObject) -> None:
    sizes = [plan.size(plan.steps[node.step]) for node in plan.nodes]
    chosen = [np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size))) for size in sizes]
    start = {(n, int(i)) for n, own in enumerate(chosen) for i in np.flatnonzero(own)}
    found = with_downstream(plan, [own.copy() for own in chosen])
    assert {(n, int(i)) for n, own in enumerate(found) for i in np.flatnonzero(own)} == model(plan, start)
