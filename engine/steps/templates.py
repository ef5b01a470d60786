"""Pieces → Template: what holds for all rows and samples becomes literal text, the rest a hole."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import msgspec

from mrun.engine.language.findings import Findings
from mrun.engine.language.names import SAMPLE_TOKENS, Meaning
from mrun.engine.language.resolve import Meant
from mrun.engine.plan.model import SampleTable, Template, Token, TokenKind
from mrun.engine.steps.scripts import Script, TermsText
from mrun.engine.steps.steps import DraftStep
from mrun.engine.table.paths import MAX_LISTED_PATHS, sample_depth


class Templater(msgspec.Struct, frozen=True):
    """Makes templates of one study."""

    workspace: str
    steps: Sequence[DraftStep]
    #: The parameters that each step uses.
    used: Sequence[tuple[str, ...]]
    #: What `$(P.name)` stands for.
    shown_names: Mapping[str, str]
    samples: SampleTable | None
    level_max_dirs: int
    findings: Findings

    def template(self, pieces: Script, step: DraftStep) -> Template:
        """The template of a script, or of a queue's name, of that step."""
        parts: list[str | Token] = []
        for piece in pieces:
            part = piece if isinstance(piece, str) else self._part(piece, step)
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            elif part != "":
                parts.append(part)
        return tuple(parts)

    def _part(self, piece: Meant | TermsText, step: DraftStep) -> str | Token:
        if isinstance(piece, TermsText):
            return Token(TokenKind.TERMS_TEXT, str(piece.column))
        argument = piece.argument
        match piece.meaning:
            case Meaning.PARAMETER:
                return Token(TokenKind.PARAMETER, argument)
            case Meaning.PARAMETER_LABEL:
                return Token(TokenKind.PARAMETER_LABEL, argument)
            case Meaning.PARAMETER_NAME:
                return self.shown_names[argument]
            case Meaning.WORKSPACE:
                return self._workspace(step, step)
            case Meaning.STEP_WORKSPACE:
                return self._workspace(self.steps[int(argument)], step)
            case Meaning.SAMPLE if argument in SAMPLE_TOKENS:
                return Token(SAMPLE_TOKENS[argument])
            case Meaning.SAMPLE:
                return Token(TokenKind.SAMPLE_VALUE, argument)
            case Meaning.TABLE:
                return self._about_table(piece)
            case _:
                raise AssertionError(piece)

    def _workspace(self, target: DraftStep, step: DraftStep) -> str | Token:
        """A directory of the row, unless the target uses no parameters or the step waits for all of it."""
        if target is step and self.used[step.index]:
            return Token(TokenKind.WORKSPACE)
        if not self.used[target.index] or target.index in step.starred:
            return os.path.join(self.workspace, target.directory)
        return Token(TokenKind.STEP_WORKSPACE, target.name)

    def _about_table(self, piece: Meant) -> str | Token:
        samples = self.samples
        if samples is None:
            return ""
        if piece.argument == "MERLIN_SAMPLE_NAMES":
            return " ".join(samples.columns)
        if piece.argument == "MERLIN_GLOB_PATH":
            return "*/" * sample_depth(samples.count, self.level_max_dirs)
        if samples.count > MAX_LISTED_PATHS:
            message = f"'$({piece.use.name})' of {samples.count} samples is longer than any list of arguments."
            hint = "Use '$(MERLIN_GLOB_PATH)'."
            self.findings.error(piece.use.text, message, offset=piece.use.offset, hint=hint)
            return ""
        return Token(TokenKind.ALL_PATHS)
