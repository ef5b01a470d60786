"""Spec → Plan: the story of the room."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from mrun.engine.errors import MrunError
from mrun.engine.plan.edges import make_barriers, make_nodes, number_nodes
from mrun.engine.plan.expand import (
    Combinations,
    check_instances,
    combine,
    read_parameters,
    shown_names,
    used_parameters,
)
from mrun.engine.plan.findings import Findings
from mrun.engine.plan.model import Plan, PlanParameter, PlanStep, SampleTable
from mrun.engine.plan.names import RESERVED
from mrun.engine.plan.places import Place, study_values
from mrun.engine.plan.resolve import EVERYWHERE, Resolver, Where
from mrun.engine.plan.steps import DraftStep, read_steps
from mrun.engine.plan.templates import Templater
from mrun.engine.plan.variables import Variables
from mrun.engine.spec.model import Spec


class Draft(msgspec.Struct, frozen=True):
    """A spec that was read and found good: all of a plan but what depends on the table of samples."""

    description: str
    columns: tuple[str, ...]
    steps: tuple[DraftStep, ...]
    parameters: tuple[PlanParameter, ...]
    shown_names: dict[str, str]
    #: Parameters that each step uses, sorted.
    used: tuple[tuple[str, ...], ...]
    #: Combinations of each step.
    combinations: tuple[Combinations, ...]


def check_plan(spec: Spec, place: Place) -> tuple[str, ...]:
    """Find everything that is wrong with a spec, before anything is made on disk.

    Looks at the file system only to see whether env.dependencies.paths exist.

    Returns:
        Warnings.

    Raises:
        SpecError: with all problems, in file order.
    """
    findings = Findings(spec.path)
    draft_study(spec, place, findings)
    return findings.warnings


def compile_plan(
    spec: Spec,
    place: Place,
    samples: SampleTable | None = None,
    environment: Mapping[str, str] | None = None,
) -> Plan:
    """Make the plan. Its cost grows with nodes and edges, never with samples.

    Args:
        samples: the table, if the spec has samples.
        environment: if it is not the one that the study was placed with.

    Raises:
        SpecError: with all problems, in file order; after `check_plan`, only for what the size of the table forbids.
    """
    if spec.samples and samples is None:
        raise MrunError("A study with samples was compiled without their table.")
    if environment is not None:
        place = msgspec.structs.replace(place, environment=dict(environment))
    findings = Findings(spec.path)
    draft = draft_study(spec, place, findings)
    if samples is not None and samples.columns != draft.columns:
        raise MrunError(f"The table has the columns {samples.columns}, the spec {draft.columns}.")
    level_max_dirs = spec.samples.level_max_dirs if spec.samples else 25
    templater = Templater(
        workspace=place.workspace,
        steps=draft.steps,
        used=draft.used,
        shown_names=draft.shown_names,
        samples=samples,
        level_max_dirs=level_max_dirs,
        findings=findings,
    )
    steps = _make_steps(draft, templater)
    queues = [templater.template(step.queue, step) for step in draft.steps]
    findings.raise_problems()
    return Plan(
        name=place.name,
        description=draft.description,
        workspace=place.workspace,
        spec_path=place.spec_path,
        steps=steps,
        nodes=make_nodes(draft.steps, draft.combinations, queues, draft.parameters),
        barriers=make_barriers(draft.steps),
        parameters=draft.parameters,
        samples=samples,
        level_max_dirs=level_max_dirs,
        warnings=findings.warnings,
    )


def draft_study(spec: Spec, place: Place, findings: Findings) -> Draft:
    """Read all of a spec.

    Raises:
        SpecError: with all problems, in file order.
    """
    resolver = study_resolver(spec, place, findings)
    columns = _read_columns(spec, resolver, findings)
    steps = read_steps(spec, resolver, findings)
    _check_env(spec, resolver)
    description = resolver.study_text(spec.description, "the study's description")
    _check_samples(spec, resolver, findings)
    parameters = read_parameters(spec, resolver, findings)
    names = shown_names(spec, resolver)
    used = used_parameters(steps)
    by_names = combine(spec, parameters, used, findings)
    combinations = tuple(by_names[names] for names in used)
    check_instances(steps, combinations, findings)
    _check_queues(steps, findings)
    findings.raise_problems()
    return Draft(description, columns, steps, parameters, names, used, combinations)


def study_resolver(spec: Spec, place: Place, findings: Findings) -> Resolver:
    """A resolver that knows what holds for the whole study."""
    variables = Variables(spec, place.variables, place.environment, findings)
    resolver = Resolver(spec, variables, findings)
    resolver.values = study_values(place)
    resolver.values |= _dependencies(spec, place, resolver, findings)
    return resolver


def _dependencies(spec: Spec, place: Place, resolver: Resolver, findings: Findings) -> dict[str, str]:
    """Where they are, or will be, by name."""
    paths = {}
    for dependency in spec.path_dependencies:
        name = dependency.name.value
        if name in RESERVED:
            findings.error(dependency.name, f"'{name}' is a name of mrun's own, a dependency can't have it.")
        expanded = resolver.study_text(dependency.path, f"the path of '{name}'")
        path = os.path.normpath(os.path.join(place.cwd, expanded))
        if not Path(path).exists():
            findings.error(dependency.path, f"The dependency '{name}' is missing: there is no '{path}'.")
        paths[name] = path
    for git in spec.git_dependencies:
        name = git.name.value
        if name in RESERVED:
            findings.error(git.name, f"'{name}' is a name of mrun's own, a dependency can't have it.")
        expanded = resolver.study_text(git.path, f"the path of '{name}'").strip()
        paths[name] = os.path.normpath(os.path.join(place.cwd, expanded, name))
    return paths


def _read_columns(spec: Spec, resolver: Resolver, findings: Findings) -> tuple[str, ...]:
    """The labels of the samples' columns, made known to the resolver."""
    columns: list[str] = []
    taken = {name.casefold() for name in resolver.variables.texts} | {name.casefold() for name in RESERVED}
    parameters = {parameter.name.value for parameter in spec.parameters}
    for label in spec.samples.column_labels if spec.samples else ():
        column = resolver.study_text(label, "column_labels")
        if column in columns:
            findings.error(label, f"There are two columns '{column}'.")
        if column in parameters or column.casefold() in taken:
            message = f"The column label '{column}' is also a variable, a parameter or a name of mrun's own."
            findings.error(label, message, hint="Rename the column.")
        columns.append(column)
    resolver.set_columns(tuple(columns))
    return tuple(columns)


def _check_env(spec: Spec, resolver: Resolver) -> None:
    """Read every variable and label for itself, so that what is wrong in one is noted there, used or not."""
    for name, text in resolver.variables.texts.items():
        resolver.read(text, Where(f"the variable '{name}'", EVERYWHERE))
    for git in spec.git_dependencies:
        for key in ("url", "tag", "branch", "hash"):
            git_text = getattr(git, key)
            if git_text is not None:
                resolver.study_text(git_text, f"the {key} of '{git.name.value}'")
    for label in ("bank", "queue", "walltime", "nodes"):
        batch_text = getattr(spec.batch, label)
        if batch_text is not None:
            resolver.study_text(batch_text, f"batch.{label}")


def _check_samples(spec: Spec, resolver: Resolver, findings: Findings) -> None:
    samples = spec.samples
    if samples is None:
        return
    resolver.study_text(samples.file, "merlin.samples.file")
    if samples.generate:
        resolver.study_text(samples.generate, "merlin.samples.generate.cmd", is_script=True)
    if samples.files != "full":
        findings.error(samples.file, f"'files: {samples.files}' is not supported yet.", hint="Use 'full'.")
    if samples.level_max_dirs < 2:
        findings.error(samples.file, f"level_max_dirs must be at least 2, not {samples.level_max_dirs}.")


def _check_queues(steps: Sequence[DraftStep], findings: Findings) -> None:
    for step in steps:
        if not any(not isinstance(piece, str) or piece.strip() for piece in step.queue):
            findings.error(step.step.run.task_queue, f"The task_queue of step '{step.name}' is empty.")


def _max_fails(step: DraftStep, templater: Templater) -> int | None:
    """A number of samples; a percentage is one of the node's, rounded down."""
    text = step.max_fails
    if text is None:
        return None
    size = templater.samples.count if step.uses_samples and templater.samples else 1
    return int(size * float(text[:-1]) / 100) if text.endswith("%") else int(text)


def _make_steps(draft: Draft, templater: Templater) -> tuple[PlanStep, ...]:
    classes: dict[tuple[tuple[str, str], ...], int] = {}
    first_nodes = number_nodes(draft.combinations)
    return tuple(
        PlanStep(
            index=step.index,
            name=step.name,
            directory=step.directory,
            shell=step.shell,
            cmd=templater.template(step.cmd, step),
            restart=None if step.restart is None else templater.template(step.restart, step),
            uses_samples=step.uses_samples,
            first_node=first_nodes[step.index],
            rows=draft.combinations[step.index].rows,
            parameters=draft.used[step.index],
            max_retries=step.step.run.max_retries,
            retry_delay_s=step.step.run.retry_delay_s,
            walltime_s=step.walltime_s,
            on_failure=step.step.run.on_failure,
            max_losses=step.step.run.max_losses,
            chunk=step.step.run.chunk,
            max_fails=_max_fails(step, templater),
            resource_class=classes.setdefault(step.needs, len(classes)),
            script_ending=".sh" if step.batch_type == "local" else ".slurm.sh",
        )
        for step in draft.steps
    )
