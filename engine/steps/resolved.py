"""A spec, read once: what every text of it means where it stands, and all that is wrong with it.

What is made of a study (its plan, its workers, its clones, the copies of its spec) is made of the record that this
module gives.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from mrun.engine.language.findings import Findings
from mrun.engine.language.names import RESERVED, Meaning
from mrun.engine.language.places import Place, place_study, study_values
from mrun.engine.language.resolve import EVERYWHERE, Resolver, Where
from mrun.engine.language.variables import Variables
from mrun.engine.plan.model import PlanParameter
from mrun.engine.spec.keys import SAMPLES_KEYS
from mrun.engine.spec.model import Spec, Text, Tree
from mrun.engine.spec.texts import has_token
from mrun.engine.steps.clones import Clone, read_clones
from mrun.engine.steps.expand import (
    Combinations,
    check_instances,
    combine,
    read_parameters,
    shown_names,
    used_parameters,
)
from mrun.engine.steps.steps import DraftStep, read_steps
from mrun.engine.steps.terms import ParameterTable
from mrun.engine.steps.workers import Workers, read_workers
from mrun.engine.table.samples import SamplesRequest

#: Labels in a variable: `X Y`, or as they stand in YAML, `[X, Y]`.
_LISTED = re.compile(r"[^\s,\[\]'\"]+")
#: What escapes of YAML can bring, and no script, path or name can hold: NUL, and halves of characters.
_UNFIT = re.compile("[\0\ud800-\udfff]")


class Resolved(msgspec.Struct, frozen=True):
    """A spec that was read at a place: all of a study but what depends on the table of samples.

    Attributes:
        used: the parameters that each step uses, sorted.
        combinations: those of each step.
        files: how samples' files are kept.
        request: the samples that it asks for; None: it has none.
        warnings: about all but workers, which are for whoever starts these.
    """

    spec: Spec
    place: Place
    resolver: Resolver
    description: str
    columns: tuple[str, ...]
    steps: tuple[DraftStep, ...]
    parameters: tuple[PlanParameter, ...]
    shown_names: dict[str, str]
    used: tuple[tuple[str, ...], ...]
    combinations: tuple[Combinations, ...]
    level_max_dirs: int
    files: str
    request: SamplesRequest | None
    clones: tuple[Clone, ...]
    workers: Workers
    warnings: tuple[str, ...]


def resolve_study(
    spec: Spec,
    *,
    variables: Mapping[str, str],
    output_path: str | None,
    now: datetime,
    environment: Mapping[str, str],
    cwd: str,
    findings: Findings | None = None,
) -> Resolved:
    """Find where a study belongs, and read all of its spec. Makes nothing, and looks for `env.dependencies.paths` only.

    Args:
        variables: what `--vars` sets.
        output_path: what `-o` says; it comes before `OUTPUT_PATH` of env.
        findings: takes what is wrong; then nothing is raised for it, and the record is none to make anything of.

    Raises:
        SpecError: with all problems, in file order.
    """
    noted = Findings(spec.shown_path) if findings is None else findings
    resolver = Resolver(spec, Variables(spec, variables, environment, noted), noted)
    place = place_study(
        spec,
        resolver,
        variables=variables,
        output_path=output_path,
        now=now,
        environment=environment,
        cwd=cwd,
    )
    _check_characters(spec.tree, noted)
    resolved = _read_study(spec, place, resolver)
    if findings is None:
        noted.raise_problems()
    return resolved


def resolve_at(spec: Spec, place: Place) -> Resolved:
    """Read a spec again for another place: paths of the workspace stand in its texts. Raises as `resolve_study`."""
    findings = Findings(spec.shown_path)
    resolver = Resolver(spec, Variables(spec, place.variables, place.environment, findings), findings)
    resolved = _read_study(spec, place, resolver)
    findings.raise_problems()
    return resolved


def _read_study(spec: Spec, place: Place, resolver: Resolver) -> Resolved:
    findings = resolver.findings
    resolver.values = study_values(place)
    resolver.values |= _dependencies(spec, place, resolver, findings)
    columns = _read_columns(spec, resolver, findings)
    parameters = read_parameters(spec, resolver, findings)
    names = shown_names(spec, resolver)
    table = ParameterTable({parameter.name: parameter for parameter in parameters}, names)
    steps = read_steps(spec, resolver, table, place.cwd, findings)
    clones = _read_env(spec, resolver)
    description = resolver.study_text(spec.description, "the study's description")
    request = _read_request(spec, place, columns, resolver)
    settings = _samples_settings(spec, resolver)
    if settings["files"] == "packed":
        _warn_of_nothing_there(steps, findings)
    used = used_parameters(steps)
    by_names = combine(spec, parameters, used, findings)
    combinations = tuple(by_names[names] for names in used)
    check_instances(steps, combinations, findings)
    _check_queues(steps, findings)
    warnings = findings.warnings
    workers = read_workers(spec, resolver, [step.name for step in steps])
    return Resolved(
        spec=spec,
        place=place,
        resolver=resolver,
        description=description,
        columns=columns,
        steps=steps,
        parameters=parameters,
        shown_names=names,
        used=used,
        combinations=combinations,
        level_max_dirs=settings["level_max_dirs"],
        files=settings["files"],
        request=request,
        clones=clones,
        workers=workers,
        warnings=warnings,
    )


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
    for label, column in _column_labels(spec, resolver):
        if column in columns:
            findings.error(label, f"There are two columns '{column}'.")
        if column in parameters or column.casefold() in taken:
            message = f"The column label '{column}' is also a variable, a parameter or a name of mrun's own."
            findings.error(label, message, hint="Rename the column.")
        columns.append(column)
    resolver.set_columns(tuple(columns))
    return tuple(columns)


def _column_labels(spec: Spec, resolver: Resolver) -> list[tuple[Text, str]]:
    """The labels, each with its place. A variable may hold several of them: a label has no blanks."""
    written = spec.samples.column_labels if spec.samples else ()
    texts = [(label, resolver.study_text(label, "column_labels")) for label in written]
    return [
        (label, one) for label, text in texts for one in (_LISTED.findall(text) if has_token(label.value) else [text])
    ]


def _read_env(spec: Spec, resolver: Resolver) -> tuple[Clone, ...]:
    """Read every variable and label for itself, so that what is wrong in one is noted there, used or not.

    Returns:
        The clones that the study asks for.
    """
    for name, text in resolver.variables.texts.items():
        resolver.read(text, Where(f"the variable '{name}'", EVERYWHERE))
    clones = read_clones(spec, resolver)
    for label in ("bank", "queue", "walltime", "nodes"):
        batch_text = getattr(spec.batch, label)
        if batch_text is not None:
            resolver.study_text(batch_text, f"batch.{label}")
    return clones


def _read_request(spec: Spec, place: Place, columns: tuple[str, ...], resolver: Resolver) -> SamplesRequest | None:
    samples = spec.samples
    if samples is None:
        return None
    file = resolver.study_text(samples.file, "merlin.samples.file").strip()
    script = samples.generate
    generate = resolver.study_text(script, "merlin.samples.generate.cmd", is_script=True) if script else None
    shell = resolver.study_text(spec.batch.shell, "batch.shell").strip()
    paths = dict.fromkeys(os.path.normpath(os.path.join(base, file)) for base in (place.workspace, place.cwd))
    return SamplesRequest(tuple(paths), columns, generate, shell)


def _samples_settings(spec: Spec, resolver: Resolver) -> dict[str, Any]:
    """The values of the keys in `SAMPLES_KEYS`."""
    given = spec.samples.settings if spec.samples else {}
    values = {}
    for name, key in SAMPLES_KEYS.items():
        values[name] = key.default
        if name not in given:
            continue
        text = resolver.study_text(given[name], f"merlin.samples.{name}").strip()
        try:
            values[name] = key.parse(text)
        except ValueError:
            resolver.findings.error(given[name], key.later.format(value=text))
    return values


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


def _check_characters(tree: Tree, findings: Findings) -> None:
    if isinstance(tree, dict):
        for key, value in tree.items():
            _check_characters(Text(key), findings)
            _check_characters(value, findings)
    elif isinstance(tree, list):
        for item in tree:
            _check_characters(item, findings)
    elif found := _UNFIT.search(tree.value):
        what = "the character NUL" if found.group() == "\0" else "half of a character"
        findings.error(tree, f"A text holds {what}, which no script, path or name can.", hint="Remove the escape.")
