"""The terms of a step before there are nodes: all that its `run` block says besides its scripts, row by row.

Any text of the block may hold parameters. Rows that say the same share their terms, so that a step pays only for what
differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

from mrun.engine.errors import LauncherError
from mrun.engine.nearest import nearest_hint
from mrun.engine.plan.durations import parse_walltime_s
from mrun.engine.plan.findings import Findings
from mrun.engine.plan.launching import COUNTS, Launching
from mrun.engine.plan.model import PlanParameter
from mrun.engine.plan.names import PARAMETER_MEANINGS, Meaning
from mrun.engine.plan.resolve import STUDY_ONLY, Meant, Pieces, Resolver, Where
from mrun.engine.resources import is_name
from mrun.engine.spec.model import Spec, Step, Text
from mrun.engine.spec.texts import parse_flag, parse_number, parse_whole
from mrun.launchers.find import launcher_named, prefix_named
from mrun.launchers.find import names as launcher_names

WITH_PARAMETERS = STUDY_ONLY | PARAMETER_MEANINGS

#: Up to 100 %.
_PERCENT = re.compile(r"(100|\d{1,2}(\.\d*)?)%")
#: Stands before the name of a resource that users gave one.
_NAMED = "resources."
_ON_FAILURE = ("continue", "skip", "abort")


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


class DraftTerms(msgspec.Struct, frozen=True):
    """The terms of a step in some of its rows."""

    shell: str
    launching: Launching
    walltime_s: float | None
    max_retries: int
    retry_delay_s: float
    on_failure: str
    max_losses: int
    chunk: int | None
    #: A number, or a percentage with its sign.
    max_fails: str | None
    #: Resources that users gave a name, sorted.
    named: tuple[tuple[str, int], ...] = ()
    #: Of scripts that are jobs: so many at a time (0: any number), and words for who submits them.
    throttle: int = 0
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
    single = {"walltime": run.walltime, "max_fails": run.max_fails}
    return {
        "shell": run.shell or spec.batch.shell,
        "batch.type": run.batch_type or spec.batch.type,
        **{key: text for key, text in single.items() if text is not None},
        **run.resources,
        **{_NAMED + name: text for name, text in run.named_resources.items()},
        **run.launcher_texts,
        **{key: text for key, text in run.undecided.items() if key not in ("mode", "warm")},
    }


def _differs(pieces: Pieces) -> bool:
    return any(isinstance(piece, Meant) for piece in pieces)


class _Reader:
    """Makes terms of texts whose variables and parameters are put in."""

    def __init__(
        self, step: Step, written: Mapping[str, Text], texts: StepTexts, findings: Findings, has_mpiexec: bool
    ) -> None:
        self._run = step.run
        self._written = written
        self._what = texts.what
        self._findings = findings
        self._has_mpiexec = has_mpiexec
        self._wrong: set[str] = set()

    def terms(self, values: Mapping[str, str]) -> DraftTerms:
        run = self._run
        stripped = {key: value.strip() for key, value in values.items()}
        walltime_s = self._walltime_s(values)
        return DraftTerms(
            shell=stripped.get("shell") or "/bin/bash",
            launching=self._launching(stripped, walltime_s),
            walltime_s=walltime_s,
            max_retries=self._whole(stripped, "max_retries", run.max_retries),
            retry_delay_s=self._retry_delay_s(stripped),
            on_failure=self._on_failure(stripped),
            max_losses=self._whole(stripped, "max_losses", run.max_losses),
            chunk=self._chunk(stripped),
            max_fails=self._max_fails(stripped),
            named=tuple(self._named(stripped)),
            throttle=self._whole(stripped, "throttle", run.throttle),
        )

    def _refuse(self, key: str, message: str, hint: str = "") -> None:
        if key not in self._wrong:
            self._wrong.add(key)
            self._findings.error(self._written[key], message, hint=hint)

    def _launching(self, values: Mapping[str, str], walltime_s: float | None) -> Launching:
        resources = {key: values[key] for key in self._run.resources if values.get(key)}
        exclusive = parse_flag(resources.get("exclusive", "no"))
        if exclusive is None:
            self._refuse("exclusive", f"exclusive must be yes or no, not '{resources['exclusive']}'.")
        batch_type = self._batch_type(values)
        counts = {key: self._count(key, resources[key]) for key in COUNTS if key in resources}
        scheduler = launcher_named(batch_type).scheduler
        return Launching(
            batch_type=batch_type,
            counts={key: number for key, number in counts.items() if number is not None},
            texts={key: value for key, value in resources.items() if key not in COUNTS},
            own_text=values.get(prefix_named(batch_type).text_key, ""),
            job_text=values.get(scheduler.text_key, "") if scheduler else "",
            walltime_s=walltime_s,
            is_exclusive=exclusive or False,
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

    def _count(self, key: str, value: str) -> int | None:
        number = parse_whole(value)
        if number is None or number < COUNTS[key]:
            self._refuse(key, f"{key} must be a whole number of at least {COUNTS[key]}, not '{value}'.")
            return None
        return number

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

    def _whole(self, values: Mapping[str, str], key: str, default: int) -> int:
        if key not in values:
            return default
        number = parse_whole(values[key])
        if number is None or number < 0:
            self._refuse(key, f"{self._what(key)} must be a whole number of at least 0, not '{values[key]}'.")
            return default
        return number

    def _retry_delay_s(self, values: Mapping[str, str]) -> float:
        if "retry_delay" not in values:
            return self._run.retry_delay_s
        number = parse_number(values["retry_delay"])
        if number is None or number < 0:
            message = f"{self._what('retry_delay')} must be a number of seconds, not '{values['retry_delay']}'."
            self._refuse("retry_delay", message)
            return self._run.retry_delay_s
        return number

    def _on_failure(self, values: Mapping[str, str]) -> str:
        value = values.get("on_failure", self._run.on_failure)
        if value not in _ON_FAILURE:
            message = f"{self._what('on_failure')} must be one of {', '.join(_ON_FAILURE)}, not '{value}'."
            self._refuse("on_failure", message, nearest_hint(value, _ON_FAILURE))
        return value

    def _chunk(self, values: Mapping[str, str]) -> int | None:
        value = values.get("chunk")
        if value is None or value == "auto":
            return self._run.chunk
        number = parse_whole(value)
        if number is None or number < 1:
            self._refuse("chunk", f"{self._what('chunk')} must be auto or a whole number, not '{value}'.")
            return None
        return number

    def _max_fails(self, values: Mapping[str, str]) -> str | None:
        value = values.get("max_fails")
        if value is None or _PERCENT.fullmatch(value):
            return value
        number = parse_whole(value)
        if number is None or number < 0:
            self._refuse("max_fails", f"max_fails '{value}' is not a number of samples or a percentage.")
            return None
        return str(number)
