"""`--dry`: the scripts of a study in their directories, for reading; nothing runs them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from mrun.engine.errors import WorkspaceError
from mrun.engine.plan.model import Plan, PlanStep
from mrun.engine.steps.render import NodeText
from mrun.engine.table.reader import SampleReader

#: Instances of a step whose scripts are written. Nobody reads more, and a study may have a hundred million.
INSTANCES_MOST = 1000
_SCRIPT_MODE = 0o755


class DryRun(msgspec.Struct, frozen=True):
    """A workspace with scripts that were not run."""

    name: str
    workspace: str
    #: Instances whose scripts are there, and those whose scripts are not, because their step has too many.
    written: int
    left_out: int
    warnings: tuple[str, ...] = ()


def write_scripts(plan: Plan, instances_most: int = INSTANCES_MOST) -> DryRun:
    """Write the scripts of the first instances of each step.

    Raises:
        WorkspaceError: a file can't be written, or the samples can't be read.
    """
    reader = SampleReader(plan.samples) if plan.samples else None
    written = sum(_write_step(plan, step, reader, instances_most) for step in plan.steps)
    total = sum(step.node_count * plan.size(step) for step in plan.steps)
    return DryRun(plan.name, plan.workspace, written, total - written, plan.warnings)


def _write_step(plan: Plan, step: PlanStep, reader: SampleReader | None, most: int) -> int:
    size = plan.size(step)
    count = min(most, step.node_count * size)
    text = NodeText(plan, step.first_node)
    for number in range(count):
        node, sample = divmod(number, size)
        if sample == 0:
            text = NodeText(plan, step.first_node + node)
        values = reader.values(sample) if reader and step.uses_samples else ()
        directory = text.sample_directory(sample)
        try:
            os.makedirs(directory, exist_ok=True)
            for is_restart in (False, True) if step.restart is not None else (False,):
                script = Path(directory, text.script_name(is_restart=is_restart))
                body = text.script_text(sample, values, is_restart=is_restart)
                script.write_bytes(body.encode("utf-8", "surrogateescape"))
                script.chmod(_SCRIPT_MODE)
        except OSError as error:
            raise WorkspaceError(f"The scripts of '{directory}' can't be written: {error.strerror}.") from error
    return count
