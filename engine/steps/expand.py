"""Parameters: the table, which of them each step uses, and the combinations (nodes) that follow."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from mrun.engine.language.findings import Findings
from mrun.engine.language.names import RESERVED
from mrun.engine.language.resolve import Resolver
from mrun.engine.language.tokens import safe_name
from mrun.engine.plan.model import PlanParameter
from mrun.engine.spec.model import Parameter, Spec, Text
from mrun.engine.steps.steps import DraftStep

#: Most file systems allow 255 bytes in a name; an instance's files add an ending such as `.restart.slurm.sh`.
MAX_NAME_BYTES = 235

_NUMBER_OF_ROWS = "A parameter table has one value per row for every parameter."


class Combinations(msgspec.Struct, frozen=True):
    """The distinct combinations of the parameters that a step uses, in row order.

    `rows` holds the first row of each, `of_row` the combination of every row, `names` the directory of each (the
    sanitised labels, joined by dots). Without parameters: no rows, one combination, named "".
    """

    rows: tuple[int, ...]
    of_row: tuple[int, ...]
    names: tuple[str, ...]


def read_parameters(spec: Spec, resolver: Resolver, findings: Findings) -> tuple[PlanParameter, ...]:
    """The parameter table with its texts expanded, a value and a label per row."""
    parameters = tuple(_read_parameter(parameter, resolver, findings) for parameter in spec.parameters)
    for written, parameter in zip(spec.parameters, parameters, strict=True):
        first, name = parameters[0], parameter.name
        if parameter.values and first.values and len(parameter.values) != len(first.values):
            message = f"'{name}' has {len(parameter.values)} values, '{first.name}' has {len(first.values)}."
            findings.error(written.name, message, hint=_NUMBER_OF_ROWS)
    return parameters


def shown_names(spec: Spec, resolver: Resolver) -> dict[str, str]:
    """What `$(P.name)` stands for, by parameter."""
    return {
        parameter.name.value: resolver.study_text(parameter.shown_name, f"the name of '{parameter.name.value}'")
        if parameter.shown_name
        else parameter.name.value
        for parameter in spec.parameters
    }


def used_parameters(steps: Sequence[DraftStep]) -> tuple[tuple[str, ...], ...]:
    """The names of the parameters that each step uses, sorted: its own, and those of the steps it leans on.

    It leans on its ordinary dependencies, and on steps whose workspace its scripts mention, unless it waits for all of
    such a step. Mentions may go in circles, so the sets grow until they no longer do.
    """
    used = [set(step.own_parameters) for step in steps]
    leans_on = [set(step.ordinary) | (step.mentioned - set(step.starred)) for step in steps]
    is_growing = True
    while is_growing:
        is_growing = False
        for index, others in enumerate(leans_on):
            before = len(used[index])
            used[index].update(*(used[other] for other in others))
            is_growing |= len(used[index]) > before
    return tuple(tuple(sorted(names)) for names in used)


def combine(
    spec: Spec, table: Sequence[PlanParameter], used: Sequence[tuple[str, ...]], findings: Findings
) -> dict[tuple[str, ...], Combinations]:
    """The combinations for every set of parameters that some step uses, computed once each."""
    written = {parameter.name.value: parameter for parameter in spec.parameters}
    combinations: dict[tuple[str, ...], Combinations] = {(): Combinations((), (), ("",))}
    for names in used:
        if names not in combinations:
            columns = [parameter for name in names for parameter in table if parameter.name == name]
            combinations[names] = _combine(columns, written[names[0]], findings)
    return combinations


def check_instances(steps: Sequence[DraftStep], combinations: Sequence[Combinations], findings: Findings) -> None:
    """Note instances of different steps that would share a name, and names that are too long."""
    owners: dict[str, int] = {}
    for step, combination in zip(steps, combinations, strict=True):
        for name in combination.names:
            instance = f"{step.directory}_{name}" if name else step.directory
            owner = owners.setdefault(instance, step.index)
            if steps[owner].directory != step.directory:
                message = f"Steps '{steps[owner].name}' and '{step.name}' would both have an instance '{instance}'."
                findings.error(step.step.name, message, hint="Rename one of the steps, or its parameters' labels.")
                break
            if len(instance) > MAX_NAME_BYTES:
                message = f"The instance name '{instance[:60]}…' has {len(instance)} characters, too many for a file."
                findings.error(step.step.name, message, hint="Use shorter labels.")
                break


def _read_parameter(parameter: Parameter, resolver: Resolver, findings: Findings) -> PlanParameter:
    name = parameter.name.value
    if name in RESERVED or name == "OUTPUT_PATH":
        findings.error(parameter.name, f"'{name}' is a name of mrun's own, a parameter can't have it.")
    values = tuple(resolver.study_text(value, f"a value of '{name}'") for value in parameter.values)
    what = f"a label of '{name}'"
    if isinstance(parameter.label, tuple):
        return PlanParameter(name, values, tuple(resolver.study_text(label, what) for label in parameter.label))
    template = resolver.study_text(parameter.label, what)
    return PlanParameter(name, values, tuple(template.replace("%%", value) for value in values))


def _combine(columns: Sequence[PlanParameter], first: Parameter, findings: Findings) -> Combinations:
    """The combinations of some columns. Problems are placed at the row's label, or value, of the first."""
    numbers: dict[tuple[str, ...], int] = {}
    rows: list[int] = []
    of_row: list[int] = []
    # Columns of different lengths are a problem that was noted before; here the shortest counts.
    label_rows = zip(*(column.labels for column in columns), strict=False)
    value_rows = list(zip(*(column.values for column in columns), strict=False))
    different_row = 0
    for row, (labels, values) in enumerate(zip(label_rows, value_rows, strict=False)):
        number = numbers.setdefault(labels, len(rows))
        if number == len(rows):
            rows.append(row)
        elif value_rows[rows[number]] != values:
            different_row = different_row or row
        of_row.append(number)
    names = tuple(_joined(labels) for labels in numbers)
    if different_row:
        kept = rows[of_row[different_row]]
        message = (
            f"Rows {kept + 1} and {different_row + 1} of the parameters have the same label, "
            f"'{names[of_row[different_row]]}', and different values: only the first of such rows is run."
        )
        findings.warn(_row_place(first, different_row), message)
    places = [_row_place(first, row) for row in rows]
    _check_names(list(numbers), names, places, findings)
    return Combinations(tuple(rows), tuple(of_row), names)


def _check_names(
    labels: list[tuple[str, ...]], names: Sequence[str], places: Sequence[Text], findings: Findings
) -> None:
    """Note the first two combinations that would share a directory, and the first that can't have one."""
    owners: dict[str, int] = {}
    for number, name in enumerate(names):
        shown = ".".join(labels[number])
        if not name or re.fullmatch(r"\.{1,2}", name):
            message = f"The label '{shown}' can't name a directory."
            findings.error(places[number], message, hint="Use letters, digits and '-_.()'.")
            return
        owner = owners.setdefault(name, number)
        if owner != number:
            message = f"The labels '{'.'.join(labels[owner])}' and '{shown}' would share the directory '{name}'."
            findings.error(places[number], message, hint="Directory names keep letters, digits and '-_.()' only.")
            return


def _joined(labels: tuple[str, ...]) -> str:
    return ".".join(safe_name(label) for label in labels)


def _row_place(parameter: Parameter, row: int) -> Text:
    return parameter.values[row] if isinstance(parameter.label, Text) else parameter.label[row]
