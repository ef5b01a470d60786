"""What every `$(NAME)` of a spec means, and whether it may stand where it stands."""

from __future__ import annotations

import re

import msgspec

from mrun.engine.language.findings import Findings
from mrun.engine.language.names import BUILT_IN, SAMPLE_TOKENS, Meaning, Named, built_in
from mrun.engine.language.tokens import Use
from mrun.engine.language.variables import Variables
from mrun.engine.nearest import nearest_hint
from mrun.engine.spec.model import Spec, Text

#: What in a script can't be a shell command by accident: then it is a token with a wrong name.
_ONE_WORD = re.compile(r"[A-Za-z_][\w.]*")
_LOOKS_LIKE_TOKEN = re.compile(r"[A-Z0-9_.]*[A-Z][A-Z0-9_.]*")

EVERYWHERE = frozenset(Meaning)
STUDY_ONLY = frozenset({Meaning.STUDY})


class Meant(msgspec.Struct, frozen=True):
    """A use, and what it means."""

    use: Use
    meaning: Meaning
    argument: str = ""


#: A text whose variables and study-wide tokens are put in; what is left depends on the step, its row or the sample.
Pieces = tuple[str | Meant, ...]


class Where(msgspec.Struct, frozen=True):
    """A place for tokens: its name for the user, the meanings it has room for, and whether it is a script."""

    what: str
    allowed: frozenset[Meaning]
    is_script: bool = False


class Resolver:
    """Reads texts.

    Values, columns and steps are filled in by the caller as they become known. Until then the names of columns and
    steps are those of the file, so that they are recognised where they can't be used.
    """

    def __init__(self, spec: Spec, variables: Variables, findings: Findings) -> None:
        self.variables = variables
        self.findings = findings
        #: Values of study-wide tokens. A token that is not (yet) here can't be used.
        self.values: dict[str, str] = {}
        #: Steps by name, as written and as expanded.
        self.step_numbers = {step.name.value: index for index, step in enumerate(spec.steps)}
        self._parameters = {parameter.name.value for parameter in spec.parameters}
        self._dependencies = {dependency.name.value for dependency in spec.path_dependencies}
        self._dependencies |= {dependency.name.value for dependency in spec.git_dependencies}
        self._columns: dict[str, int] = {}
        self._other_cases: dict[str, Named] = {}
        self.set_columns(tuple(label.value for label in spec.samples.column_labels) if spec.samples else ())

    def set_columns(self, columns: tuple[str, ...]) -> None:
        """Make the columns of the sample table known."""
        self._columns = {column: index for index, column in enumerate(columns)}
        for name in SAMPLE_TOKENS:
            self._other_cases[name.casefold()] = Named(Meaning.SAMPLE, name, is_other_case=True)
            synonym = name.replace("MERLIN_", "MRUN_")
            self._other_cases[synonym.casefold()] = Named(Meaning.SAMPLE, name, is_other_case=True)
        for column, index in self._columns.items():
            named = Named(Meaning.SAMPLE, str(index), is_other_case=True)
            self._other_cases.setdefault(column.casefold(), named)

    def study_text(self, text: Text, what: str, *, is_script: bool = False) -> str:
        """The text, where only what holds for the whole study can be used."""
        pieces = self.read(text, Where(what, STUDY_ONLY, is_script))
        return "".join(piece for piece in pieces if isinstance(piece, str))

    def read(self, text: Text, where: Where) -> Pieces:
        """Literals, and meanings that the place has room for; everything else is noted as a problem.

        An unknown name inside a variable is noted where the variable is read, not where it is used.
        """
        pieces: list[str | Meant] = []
        for part in self.variables.flat(text, is_script=where.is_script):
            if isinstance(part, str):
                pieces.append(part)
            else:
                pieces.append(self._piece(part, where, is_own=part.text is text))
        return tuple(pieces)

    def meaning(self, name: str) -> Named | None:
        """What a name that is no variable means: an exact match first, then one in other case."""
        if name in self._columns:
            return Named(Meaning.SAMPLE, str(self._columns[name]))
        if name in self._dependencies:
            return Named(Meaning.STUDY, name)
        return self._parameter(name) or built_in(name) or self._step(name) or self._other_cases.get(name.casefold())

    def _parameter(self, name: str) -> Named | None:
        if name in self._parameters:
            return Named(Meaning.PARAMETER, name)
        stem, _, end = name.rpartition(".")
        if stem in self._parameters and end in ("label", "name"):
            return Named(Meaning.PARAMETER_LABEL if end == "label" else Meaning.PARAMETER_NAME, stem)
        return None

    def _step(self, name: str) -> Named | None:
        step, _, end = name.rpartition(".")
        if end == "workspace" and step in self.step_numbers:
            return Named(Meaning.STEP_WORKSPACE, str(self.step_numbers[step]))
        return None

    def _piece(self, use: Use, where: Where, *, is_own: bool) -> str | Meant:
        named = self.meaning(use.name)
        if named is None:
            if is_own and (not where.is_script or self._is_clearly_token(use.name)):
                self._note_unknown(use, where)
            elif is_own:
                self._warn_of_near_name(use)
            return use.raw
        if named.is_other_case and where.is_script:
            if named.meaning not in where.allowed:
                return use.raw
            self._warn_of_command(use)
        value = self.values.get(named.argument) if named.meaning is Meaning.STUDY else None
        if named.meaning not in where.allowed or (named.meaning is Meaning.STUDY and value is None):
            message = f"'$({use.name})' can't be used in {where.what}: it has no value there."
            self.findings.error(use.text, message, offset=use.offset)
            return use.raw
        return Meant(use, named.meaning, named.argument) if value is None else value

    def _is_clearly_token(self, name: str) -> bool:
        """Capitals; or `x.workspace` and `P.lable`, which no shell command is likely to be called."""
        stem, _, end = name.rpartition(".")
        return bool(_LOOKS_LIKE_TOKEN.fullmatch(name)) or end == "workspace" or stem in self._parameters

    def _warn_of_near_name(self, use: Use) -> None:
        """One word that the shell will take for a command, and that is nearly a name of ours: probably a slip."""
        if not _ONE_WORD.fullmatch(use.name) or self.variables.is_command(use.name):
            return
        hint = nearest_hint(use.name, self._known_names(), lists_known=False)
        if hint:
            self.findings.warn(use.text, f"'$({use.name})' is left to the shell. {hint}", offset=use.offset)

    def _known_names(self) -> list[str]:
        columns = {column for column in self._columns if "$(" not in column}
        known = {*self.variables.texts, *BUILT_IN, *columns, *self._dependencies}
        known |= {f"{name}{end}" for name in self._parameters for end in ("", ".label", ".name")}
        return sorted(known | {f"{name}.workspace" for name in self.step_numbers})

    def _note_unknown(self, use: Use, where: Where) -> None:
        hint = nearest_hint(use.name, self._known_names(), lists_known=False)
        if where.is_script:
            shell = f"Write '$( {use.name})' if the shell is to run it, or '\\$({use.name})' within quotes."
            hint = f"{hint} {shell}".lstrip()
        self.findings.error(use.text, f"'$({use.name})' is not a known name.", offset=use.offset, hint=hint)

    def _warn_of_command(self, use: Use) -> None:
        if self.variables.is_command(use.name):
            message = f"'$({use.name})' is taken for a sample's token, and '{use.name}' is also a command."
            self.findings.warn(use.text, message, offset=use.offset)
