"""The scripts of a step before there are nodes: their first lines, and the words that stand for their launchers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from mrun.engine.language.findings import Findings
from mrun.engine.language.names import Meaning
from mrun.engine.language.resolve import EVERYWHERE, Meant
from mrun.engine.spec.model import Spec, Step, Text
from mrun.engine.steps.launching import Launching, assignment
from mrun.engine.steps.terms import DraftTerms, StepTerms, StepTexts

_LAUNCHERS = (Meaning.LAUNCHER, Meaning.VARIABLE_LAUNCHER)


class TermsText(msgspec.Struct, frozen=True):
    """A text that differs with the terms of a row: the number of a column of `DraftScripts.columns`."""

    column: int


#: A text as `Pieces`, in which terms put something, too.
Script = tuple[str | Meant | TermsText, ...]


class DraftScripts(msgspec.Struct, frozen=True):
    """`cmd` and `restart` of a step. A column holds a text for each of its different terms."""

    cmd: Script
    restart: Script | None
    columns: tuple[tuple[str, ...], ...]

    @property
    def meant(self) -> tuple[Meant, ...]:
        """What stands in either of them, and has a meaning."""
        return tuple(piece for piece in (*self.cmd, *(self.restart or ())) if isinstance(piece, Meant))


def read_scripts(
    spec: Spec, step: Step, texts: StepTexts, terms: StepTerms, sources: Sequence[str], findings: Findings
) -> DraftScripts:
    """The scripts of a step, whose terms are known.

    Args:
        sources: files that every script reads first.
    """
    reader = _Reader(spec, step, texts, terms.different, findings)
    head = reader.source_lines(sources)
    cmd = reader.script(step.run.cmd, "cmd", head)
    restart = reader.script(step.run.restart, "restart", head) if step.run.restart else None
    return DraftScripts(cmd, restart, tuple(reader.columns))


def shell_name(shell: str) -> str:
    """The program behind `#!`: `bash` of `/usr/bin/env -S bash -l`."""
    words = [word.rpartition("/")[2] for word in shell.split()]
    names = [word for word in words if word not in ("env", "-S") and not word.startswith("-")]
    return names[0] if names else ""


def source_word(shell: str) -> str:
    """The command with which that shell reads a file, or nothing if it is no shell. POSIX knows only the dot."""
    name = shell_name(shell)
    if name in ("sh", "dash", "ash"):
        return "."
    return "source" if name in ("bash", "zsh", "ksh", "csh", "tcsh", "fish") else ""


class _Reader:
    """Reads the scripts of one step. `columns` fills up on the way."""

    def __init__(
        self, spec: Spec, step: Step, texts: StepTexts, terms: Sequence[DraftTerms], findings: Findings
    ) -> None:
        self.columns: dict[tuple[str, ...], int] = {}
        self._spec, self._step, self._texts, self._terms = spec, step, texts, terms
        self._name = step.name.value
        self._findings = findings

    def script(self, text: Text, key: str, head: Script) -> Script:
        """A script with its first lines, and its launchers put in."""
        read = self._texts.read(text, key, EVERYWHERE, is_script=True)
        literal = "".join(piece if isinstance(piece, str) else "\0" for piece in read)
        pieces: list[str | Meant | TermsText] = []
        is_variable = False
        for piece in read:
            if isinstance(piece, Meant) and piece.meaning in _LAUNCHERS:
                is_variable |= piece.meaning is Meaning.VARIABLE_LAUNCHER
                pieces.extend(self._launcher(piece, literal))
            elif (
                isinstance(piece, Meant) and piece.meaning in (Meaning.SAMPLE, Meaning.TABLE) and not self._spec.samples
            ):
                message = f"'$({piece.use.name})' is used, and the study has no samples."
                self._findings.error(piece.use.text, message, offset=piece.use.offset, hint="Add merlin.samples.")
            else:
                pieces.append(piece)
        defaults = self._by_terms(lambda one: self._variable_defaults(text, literal, one)) if is_variable else ()
        return (*defaults, *head, *pieces)

    def source_lines(self, sources: Sequence[str]) -> Script:
        """The lines that read the files of env.sources."""

        def lines(terms: DraftTerms) -> str:
            word = source_word(terms.shell)
            if not word:
                message = f"env.sources is left out of step '{self._name}': '{terms.shell}' is not a shell that has it."
                self._findings.warn(self._spec.sources[0], message)
                return ""
            return "".join(f"{word} {source}\n" for source in sources)

        return self._by_terms(lines) if sources else ()

    def _by_terms(self, text_of: Callable[[DraftTerms], str]) -> Script:
        """A text that each of the different terms makes: as it stands, if it is the same for all."""
        column = tuple(map(text_of, self._terms))
        if len(set(column)) > 1:
            return (TermsText(self.columns.setdefault(column, len(self.columns))),)
        return column[:1] if column[0] else ()

    def _launcher(self, piece: Meant, script: str) -> Script:
        """The words for one use."""
        use = piece.use
        if not all(one.launching.has_room(use.brackets) for one in self._terms):
            message = f"'{use.raw}' asks for more nodes or procs than the step has."
            self._findings.error(use.text, message, offset=use.offset)
        for one in self._terms:
            self._warn_of_resources(one.launching)
        if piece.meaning is Meaning.VARIABLE_LAUNCHER:
            return self._by_terms(lambda one: one.launching.variable_launcher(use.brackets, script))
        return self._by_terms(lambda one: one.launching.launcher(use.brackets))

    def _warn_of_resources(self, launching: Launching) -> None:
        """Warn of resources that the script's launcher makes no use of."""
        resources = self._step.run.resources
        if launching.batch_type == "local" and launching.procs > 1 and not launching.has_mpiexec:
            message = f"Step '{self._name}' asks for {launching.procs} processes, and there is no 'mpiexec' on PATH"
            self._findings.warn(
                resources.get("procs") or resources["nodes"],
                f"{message}: with batch type 'local' its launcher starts one process.",
            )
        for key in launching.unknown_keys() if launching.batch_type != "local" else ():
            message = f"'{key}' of step '{self._name}' has no effect with batch type '{launching.batch_type}'."
            self._findings.warn(resources[key], message)

    def _variable_defaults(self, text: Text, script: str, terms: DraftTerms) -> str:
        shell = shell_name(terms.shell)
        lines = [assignment(shell, name, value) for name, value in terms.launching.variable_defaults(script).items()]
        if not all(lines):
            message = f"'$(VLAUNCHER)' of step '{self._name}' needs a shell's variables."
            self._findings.error(text, message, hint="Use '$(LAUNCHER)', or a shell such as /bin/bash.")
        return "".join(lines)
