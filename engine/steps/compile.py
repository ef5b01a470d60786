"""Spec → Plan: the story of the room."""

from __future__ import annotations

import msgspec

from mrun.engine.errors import MrunError
from mrun.engine.language.findings import Findings
from mrun.engine.plan.model import Plan, PlanStep, SampleTable
from mrun.engine.steps.classes import Classes
from mrun.engine.steps.edges import make_barriers, make_nodes, number_nodes
from mrun.engine.steps.resolved import Resolved
from mrun.engine.steps.steps import DraftStep
from mrun.engine.steps.templates import Templater


def compile_plan(resolved: Resolved, samples: SampleTable | None = None) -> Plan:
    """Make the plan. Its cost grows with nodes and edges, never with samples.

    Args:
        samples: the table, if the spec has samples.

    Raises:
        SpecError: only for what the size of the table forbids.
    """
    if resolved.spec.samples and samples is None:
        raise MrunError("A study with samples was compiled without their table.")
    if samples is not None and samples.columns != resolved.columns:
        raise MrunError(f"The table has the columns {samples.columns}, the spec {resolved.columns}.")
    findings = Findings(resolved.spec.shown_path)
    templater = Templater(
        workspace=resolved.place.workspace,
        steps=resolved.steps,
        used=resolved.used,
        shown_names=resolved.shown_names,
        samples=samples,
        level_max_dirs=resolved.level_max_dirs,
        findings=findings,
    )
    steps = _make_steps(resolved, templater)
    queues = [templater.template(step.queue, step) for step in resolved.steps]
    findings.raise_problems()
    return Plan(
        name=resolved.place.name,
        description=resolved.description,
        workspace=resolved.place.workspace,
        spec_path=resolved.place.spec_path,
        steps=steps,
        nodes=make_nodes(resolved.steps, resolved.combinations, queues, resolved.parameters),
        barriers=make_barriers(resolved.steps),
        parameters=resolved.parameters,
        samples=samples,
        level_max_dirs=resolved.level_max_dirs,
        warnings=resolved.warnings,
    )


def _make_steps(resolved: Resolved, templater: Templater) -> tuple[PlanStep, ...]:
    classes = Classes(resolved.steps)
    first_nodes = number_nodes(resolved.combinations)
    return tuple(
        _make_step(step, resolved, templater, classes, first_node)
        for step, first_node in zip(resolved.steps, first_nodes, strict=True)
    )


def _make_step(
    step: DraftStep, resolved: Resolved, templater: Templater, classes: Classes, first_node: int
) -> PlanStep:
    cmd, restart = step.scripts.cmd, step.scripts.restart
    rows = resolved.combinations[step.index].rows
    size = templater.samples.count if step.uses_samples and templater.samples else 1
    terms = classes.node_terms(step, rows, size)
    return PlanStep(
        index=step.index,
        name=step.name,
        directory=step.directory,
        cmd=templater.template(cmd, step),
        restart=None if restart is None else templater.template(restart, step),
        uses_samples=step.uses_samples,
        # Lean and packed scripts are in the memory of the worker, where no other node finds them.
        files=resolved.files if step.uses_samples and step.mode == "inside" else "full",
        is_warm=step.is_warm,
        first_node=first_node,
        rows=rows,
        parameters=resolved.used[step.index],
        other_terms=terms.different if terms.of_nodes else (),
        terms_of_nodes=terms.of_nodes,
        **msgspec.structs.asdict(terms.different[0]),
    )
