"""The terms of a step before there are nodes: all that its `run` block says besides its scripts, row by row.

Any text of the block may hold parameters. Rows that say the same share their terms, so that a step pays only for what
differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from mrun.engine.errors import LauncherError
from mrun.engine.language.findings import Findings
from mrun.engine.language.names import PARAMETER_MEANINGS, Meaning
from mrun.engine.language.resolve import STUDY_ONLY, Meant, Pieces, Resolver, Where
from mrun.engine.nearest import nearest_hint
from mrun.engine.plan.model import PlanParameter
from mrun.engine.resources import is_name
from mrun.engine.spec.keys import COUNT_KEYS, FLAG_KEYS, RUN_KEYS, Key
from mrun.engine.spec.model import Spec, Step, Text
from mrun.engine.spec.texts import parse_whole
from mrun.engine.steps.durations import parse_walltime_s
from mrun.engine.steps.launching import Launching
from mrun.launchers.find import launcher_named, prefix_named
from mrun.launchers.find import names as launcher_names

WITH_PARAMETERS = STUDY_ONLY | PARAMETER_MEANINGS

#: Stands before the name of a resource that users gave one.
_NAMED = "resources."


class ParameterTable(msgspec.Struct, frozen=True):
    """The parameters, and what `$(P.name)` stands for."""

    columns: Mapping[str, PlanParameter]
    shown_names: Mapping[str, str]

    @property
    def row_count(self) -> int:
        # Columns of different lengths are a problem that is noted elsewhere; here the shortest counts.
        return min((min(len(one.values), len(one.labels)) for one in self.columns.values()), default=0)

    def text(self, pieces: Pieces, row: int) -> str:
        """A text with its parameters put in, as they are in that row."""
        return "".join(piece if isinstance(piece, str) else self._value(piece, row) for piece in pieces)

    def _value(self, piece: Meant, row: int) -> str:
        if piece.meaning is Meaning.PARAMETER_NAME:
            return self.shown_names[piece.argument]
        column = self.columns[piece.argument]
        return (column.values if piece.meaning is Meaning.PARAMETER else column.labels)[row]


class StepTexts:
    """Reads the texts of one step. `parameters` are those that they use."""

    def __init__(self, step: Step, resolver: Resolver) -> None:
        self.parameters: set[str] = set()
        self._step = step
        self._resolver = resolver

    def what(self, key: str) -> str:
        """How messages call one of its keys."""
        return f"{key} of step '{self._step.name.value}'"

    def read(
        self, text: Text, key: str, allowed: frozenset[Meaning] = WITH_PARAMETERS, *, is_script: bool = False
    ) -> Pieces:
        """The text read; the parameters in it are noted as used."""
        pieces = self._resolver.read(text, Where(self.what(key), allowed, is_script))
        self.parameters.update(
            piece.argument for piece in pieces if isinstance(piece, Meant) and piece.meaning in PARAMETER_MEANINGS
        )
        return pieces

    def setting(self, name: str) -> Any:
        """The value of a key that has one for all rows of the step."""
        text, key = self._step.run.settings.get(name), RUN_KEYS[name]
        if text is None:
            return key.default
        value = self._resolver.study_text(text, self.what(name)).strip()
        try:
            return key.parse(value)
        except ValueError:
            message = key.later.format(step=self._step.name.value, value=value)
            self._resolver.findings.error(text, message, hint=key.nearest(value))
            return key.default


class DraftTerms(msgspec.Struct, frozen=True):
    """The terms of a step in some of its rows."""

    shell: str
    launching: Launching
    walltime_s: float | None
    #: The values of the keys in `RUN_KEYS` that may differ from row to row.
    settings: dict[str, Any]
    #: Resources that users gave a name, sorted.
    named: tuple[tuple[str, int], ...] = ()
    #: Of scripts that are jobs: words for who submits them.
    job_words: tuple[str, ...] = ()


class StepTerms(msgspec.Struct, frozen=True):
    """The different terms of a step, and which of them each row of the parameter table has; () if there is only one."""

    different: tuple[DraftTerms, ...]
    of_rows: tuple[int, ...]


def read_terms(
    spec: Spec, step: Step, texts: StepTexts, table: ParameterTable, findings: Findings, *, has_mpiexec: bool
) -> StepTerms:
    """The terms of a step. What is wrong with a key is noted once, for the first row in which it is."""
    written = _written(spec, step)
    pieces = {key: texts.read(text, key) for key, text in written.items()}
    reader = _Reader(step, written, texts, findings, has_mpiexec)
    fixed = {key: "".join(map(str, read)) for key, read in pieces.items() if not _differs(read)}
    differing = {key: read for key, read in pieces.items() if _differs(read)}
    numbers: dict[tuple[str, ...], int] = {}
    of_rows: tuple[int, ...] = ()
    if differing:
        rows = [tuple(table.text(read, row) for read in differing.values()) for row in range(table.row_count)]
        of_rows = tuple(numbers.setdefault(row, len(numbers)) for row in rows)
    # A parameter without values is a problem that is noted elsewhere; here its keys count as left out.
    different = [fixed | dict(zip(differing, row, strict=True)) for row in numbers] or [fixed]
    return StepTerms(tuple(map(reader.terms, different)), of_rows)


def _written(spec: Spec, step: Step) -> dict[str, Text]:
    """The texts that terms are made of, by key."""
    run = step.run
    return {
        "shell": run.shell or spec.batch.shell,
        "batch.type": run.batch_type or spec.batch.type,
        **({} if run.walltime is None else {"walltime": run.walltime}),
        **run.resources,
        **{_NAMED + name: text for name, text in run.named_resources.items()},
        **run.launcher_texts,
        **{name: text for name, text in run.settings.items() if RUN_KEYS[name].is_of_rows},
    }


def _differs(pieces: Pieces) -> bool:
    return any(isinstance(piece, Meant) for piece in pieces)


class _Reader:
    """Makes terms of texts whose variables and parameters are put in."""

    def __init__(
        self, step: Step, written: Mapping[str, Text], texts: StepTexts, findings: Findings, has_mpiexec: bool
    ) -> None:
        self._step = step
        self._run = step.run
        self._written = written
        self._what = texts.what
        self._findings = findings
        self._has_mpiexec = has_mpiexec
        self._wrong: set[str] = set()

    def terms(self, values: Mapping[str, str]) -> DraftTerms:
        stripped = {key: value.strip() for key, value in values.items()}
        walltime_s = self._walltime_s(values)
        return DraftTerms(
            shell=stripped.get("shell") or "/bin/bash",
            launching=self._launching(stripped, walltime_s),
            walltime_s=walltime_s,
            named=tuple(self._named(stripped)),
            settings={name: self._setting(key, stripped) for name, key in RUN_KEYS.items() if key.is_of_rows},
        )

    def _refuse(self, key: str, message: str, hint: str = "") -> None:
        if key not in self._wrong:
            self._wrong.add(key)
            self._findings.error(self._written[key], message, hint=hint)

    def _launching(self, values: Mapping[str, str], walltime_s: float | None) -> Launching:
        resources = {key: values[key] for key in self._run.resources if values.get(key)}
        batch_type = self._batch_type(values)
        counts = {name: self._setting(key, resources) for name, key in COUNT_KEYS.items() if name in resources}
        scheduler = launcher_named(batch_type).scheduler
        return Launching(
            batch_type=batch_type,
            counts={key: number for key, number in counts.items() if number is not None},
            texts={key: value for key, value in resources.items() if key not in COUNT_KEYS},
            own_text=values.get(prefix_named(batch_type).text_key, ""),
            job_text=values.get(scheduler.text_key, "") if scheduler else "",
            walltime_s=walltime_s,
            is_exclusive=self._setting(FLAG_KEYS["exclusive"], resources),
            has_mpiexec=self._has_mpiexec,
        )

    def _batch_type(self, values: Mapping[str, str]) -> str:
        batch_type = values.get("batch.type", "local")
        known = launcher_names()
        if batch_type not in known:
            self._refuse("batch.type", f"'{batch_type}' is no batch type.", nearest_hint(batch_type, known))
            return "local"
        try:
            prefix_named(batch_type)
        except LauncherError as error:
            self._refuse("batch.type", error.message, error.hint)
            return "local"
        return batch_type

    def _named(self, values: Mapping[str, str]) -> Iterator[tuple[str, int]]:
        for name in sorted(self._run.named_resources):
            key = _NAMED + name
            number = parse_whole(values[key])
            if not is_name(name):
                hint = "Letters, digits and -_./ make a name. For CPUs and GPUs write procs, cores per task and gpus."
                self._refuse(key, f"{self._what('resources')} can't be called '{name}'.", hint)
            elif number is None or number < 1:
                self._refuse(key, f"{self._what(key)} must be a whole number of at least 1, not '{values[key]}'.")
            else:
                yield name, number

    def _walltime_s(self, values: Mapping[str, str]) -> float | None:
        value = values.get("walltime", "0")
        try:
            return parse_walltime_s(value)
        except ValueError:
            hint = "Write [[[d:]h:]m:]s or seconds, such as 01:30:00 or 5400."
            self._refuse("walltime", f"'{value}' is not a walltime.", hint)
            return None

    def _setting(self, key: Key, values: Mapping[str, str]) -> Any:
        if key.name not in values:
            return key.default
        value = values[key.name]
        try:
            return key.parse(value)
        except ValueError:
            self._refuse(key.name, key.later.format(step=self._step.name.value, value=value), key.nearest(value))
            return key.default
