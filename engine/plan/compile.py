"""Spec → Plan: the story of the room."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from mrun.engine.errors import MrunError
from mrun.engine.plan.classes import Classes
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
from mrun.engine.plan.model import WAYS_OF_FILES, Plan, PlanParameter, PlanStep, SampleTable
from mrun.engine.plan.names import RESERVED, Meaning
from mrun.engine.plan.places import Place, study_values
from mrun.engine.plan.resolve import EVERYWHERE, Resolver, Where
from mrun.engine.plan.steps import DraftStep, read_steps
from mrun.engine.plan.templates import Templater
from mrun.engine.plan.terms import ParameterTable
from mrun.engine.plan.variables import Variables
from mrun.engine.spec.model import Spec, Text
from mrun.engine.spec.texts import has_token, parse_whole

#: Labels in a variable: `X Y`, or as they stand in YAML, `[X, Y]`.
_LISTED = re.compile(r"[^\s,\[\]'\"]+")


class Draft(msgspec.Struct, frozen=True):
    """A spec that was read: all of a plan but what depends on the table of samples."""

    description: str
    columns: tuple[str, ...]
    steps: tuple[DraftStep, ...]
    parameters: tuple[PlanParameter, ...]
    shown_names: dict[str, str]
    #: Parameters that each step uses, sorted.
    used: tuple[tuple[str, ...], ...]
    #: Combinations of each step.
    combinations: tuple[Combinations, ...]
    level_max_dirs: int
    #: How samples' files are kept.
    files: str


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
    findings = Findings(spec.shown_path)
    draft = draft_study(spec, place, findings)
    findings.raise_problems()
    if samples is not None and samples.columns != draft.columns:
        raise MrunError(f"The table has the columns {samples.columns}, the spec {draft.columns}.")
    templater = Templater(
        workspace=place.workspace,
        steps=draft.steps,
        used=draft.used,
        shown_names=draft.shown_names,
        samples=samples,
        level_max_dirs=draft.level_max_dirs,
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
        level_max_dirs=draft.level_max_dirs,
        warnings=findings.warnings,
    )


def draft_study(spec: Spec, place: Place, findings: Findings) -> Draft:
    """Read all of a spec. What is wrong with it is noted; then the draft is none to compile."""
    resolver = study_resolver(spec, place, findings)
    columns = _read_columns(spec, resolver, findings)
    parameters = read_parameters(spec, resolver, findings)
    names = shown_names(spec, resolver)
    table = ParameterTable({parameter.name: parameter for parameter in parameters}, names)
    steps = read_steps(spec, resolver, table, place.cwd, findings)
    _check_env(spec, resolver)
    description = resolver.study_text(spec.description, "the study's description")
    level_max_dirs, files = _read_samples(spec, resolver, findings)
    if files == "packed":
        _warn_of_nothing_there(steps, findings)
    used = used_parameters(steps)
    by_names = combine(spec, parameters, used, findings)
    combinations = tuple(by_names[names] for names in used)
    check_instances(steps, combinations, findings)
    _check_queues(steps, findings)
    return Draft(description, columns, steps, parameters, names, used, combinations, level_max_dirs, files)


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
    for label, column in column_labels(spec, resolver):
        if column in columns:
            findings.error(label, f"There are two columns '{column}'.")
        if column in parameters or column.casefold() in taken:
            message = f"The column label '{column}' is also a variable, a parameter or a name of mrun's own."
            findings.error(label, message, hint="Rename the column.")
        columns.append(column)
    resolver.set_columns(tuple(columns))
    return tuple(columns)


def column_labels(spec: Spec, resolver: Resolver) -> list[tuple[Text, str]]:
    """The labels, each with its place. A variable may hold several of them: a label has no blanks."""
    written = spec.samples.column_labels if spec.samples else ()
    texts = [(label, resolver.study_text(label, "column_labels")) for label in written]
    return [
        (label, one) for label, text in texts for one in (_LISTED.findall(text) if has_token(label.value) else [text])
    ]


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


def _read_samples(spec: Spec, resolver: Resolver, findings: Findings) -> tuple[int, str]:
    """Read the block of samples; returns level_max_dirs, and how files are kept."""
    samples = spec.samples
    if samples is None:
        return 25, "full"
    resolver.study_text(samples.file, "merlin.samples.file")
    if samples.generate:
        resolver.study_text(samples.generate, "merlin.samples.generate.cmd", is_script=True)
    words = {key: resolver.study_text(text, f"merlin.samples.{key}").strip() for key, text in samples.undecided.items()}
    files = words.get("files", samples.files)
    if files not in WAYS_OF_FILES:
        place = samples.undecided.get("files", samples.file)
        findings.error(place, f"'files' must be one of {', '.join(WAYS_OF_FILES)}, not '{files}'.")
    level = words.get("level_max_dirs", str(samples.level_max_dirs))
    level_max_dirs = parse_whole(level)
    if level_max_dirs is None or level_max_dirs < 2:
        place = samples.undecided.get("level_max_dirs", samples.file)
        findings.error(place, f"level_max_dirs must be at least 2, not {level}.")
        return 25, files
    return level_max_dirs, files


def _warn_of_nothing_there(steps: Sequence[DraftStep], findings: Findings) -> None:
    """Samples that are packed have no directory: who looks for one looks in vain."""
    for step in steps:
        for piece in step.scripts.meant:
            if piece.meaning is not Meaning.STEP_WORKSPACE or not steps[int(piece.argument)].uses_samples:
                continue
            name = steps[int(piece.argument)].name
            message = f"'$({piece.use.name})': with 'files: packed', samples of '{name}' leave no directory there."
            findings.warn(piece.use.text, f"{message} What they are to leave, they must copy there.",
                          offset=piece.use.offset)  # fmt: skip


def _check_queues(steps: Sequence[DraftStep], findings: Findings) -> None:
    for step in steps:
        if not any(not isinstance(piece, str) or piece.strip() for piece in step.queue):
            findings.error(step.step.run.task_queue, f"The task_queue of step '{step.name}' is empty.")
        if any(isinstance(piece, str) and "," in piece for piece in step.queue):
            message = f"The task_queue of step '{step.name}' holds a comma, which stands between queues elsewhere."
            findings.error(step.step.run.task_queue, message, hint="Use another character in its name.")


def _make_steps(draft: Draft, templater: Templater) -> tuple[PlanStep, ...]:
    classes = Classes(draft.steps)
    first_nodes = number_nodes(draft.combinations)
    return tuple(
        _make_step(step, draft, templater, classes, first_node)
        for step, first_node in zip(draft.steps, first_nodes, strict=True)
    )


def _make_step(step: DraftStep, draft: Draft, templater: Templater, classes: Classes, first_node: int) -> PlanStep:
    cmd, restart = step.scripts.cmd, step.scripts.restart
    rows = draft.combinations[step.index].rows
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
        files=draft.files if step.uses_samples and step.mode == "inside" else "full",
        is_warm=step.is_warm,
        first_node=first_node,
        rows=rows,
        parameters=draft.used[step.index],
        other_terms=terms.different if terms.of_nodes else (),
        terms_of_nodes=terms.of_nodes,
        **msgspec.structs.asdict(terms.different[0]),
    )
