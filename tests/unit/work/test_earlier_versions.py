"""A workspace that mrun wrote at 7441985 (packed samples, a failure, a retry) is read as it was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrun.engine.workspace.history import read_fates
from mrun.engine.workspace.journal import Claimed, Settled, read_journal
from mrun.engine.workspace.outputs import sample_outputs
from mrun.engine.workspace.plan_file import read_plan

WORKSPACE = Path(__file__).resolve().parents[2] / "data" / "workspace-7441985"


def test_kept_plan_is_read() -> None:
    found = read_plan(WORKSPACE)
    assert (found.run, [step.name for step in found.plan.steps]) == (2, ["sim", "sum"])
    assert found.plan.samples is not None
    assert found.plan.samples.count == 5
    assert found.plan.workspace == str(WORKSPACE)


@pytest.mark.parametrize("run", [1, 2])
def test_journals_and_what_a_run_began_with_are_read(run: int) -> None:
    fates, highest = read_fates(read_plan(WORKSPACE).plan, run)
    assert highest > 0
    assert [len(of_node) for of_node in fates] == [5, 1]
    # All that failed in the first run finished in the second, and is read from its journal.
    assert len({int(fate) for of_node in fates for fate in of_node}) == 1


def test_records_of_a_journal_are_read() -> None:
    kinds = [type(record) for path in WORKSPACE.glob("mrun_info/journal/*.journal") for record in read_journal(path)]
    assert kinds.count(Claimed) >= 4
    assert kinds.count(Settled) >= 4


def test_packed_output_is_read() -> None:
    plan = read_plan(WORKSPACE).plan
    outputs = [one for one in sample_outputs(plan) if one.out is not None]
    printed = {(one.step, one.sample): b"".join(one.out.chunks()) for one in outputs if one.out}
    # The last step ran in both runs, and appended.
    values = {("sim", number): f"value {number}\n".encode() for number in range(5)}
    assert printed == values | {("sum", 0): b"sum\nsum\n"}
