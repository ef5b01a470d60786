"""A node's names, directories and scripts. For the worker: what can be known once per node is; a script is one join."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence

from mrun.engine.language.tokens import safe_name
from mrun.engine.plan.model import Plan, PlanParameter, PlanStep, Template, Token, TokenKind
from mrun.engine.table.paths import all_paths, sample_path

#: Of so many directories of samples the path is kept: slots of one worker are in different places of a node.
_PATHS_MOST = 128
_SAMPLE_NAMES = {
    TokenKind.SAMPLE_ID: "MERLIN_SAMPLE_ID",
    TokenKind.SAMPLE_PATH: "MERLIN_SAMPLE_PATH",
    TokenKind.SAMPLE_VECTOR: "MERLIN_SAMPLE_VECTOR",
}


class NodeText:
    """One node of a plan, in words.

    Attributes:
        step: its step.
        terms: on what terms it runs: those of its row, where a step's rows differ.
        instance_name: `step` or `step_<labels>`, the stem of its files' names.
        directory: its directory, absolute. That of a sample is `sample_directory`.
        shell: what stands behind `#!`.
        size: how many samples it has.
    """

    def __init__(self, plan: Plan, node_index: int) -> None:
        # A worker's plan has no nodes: they are numbered in one block for each step.
        step = plan.steps[bisect_right(plan.steps, node_index, key=lambda one: one.first_node) - 1]
        self._plan = plan
        self._row = step.rows[node_index - step.first_node] if step.rows else 0
        self._parameters = {parameter.name: parameter for parameter in plan.parameters}
        labels = self._labels(step)
        self.step = step
        self.terms = step.terms(node_index)
        self.shell = self.terms.shell
        self.size = plan.size(step)
        self._first_size = plan.samples.first_count if step.uses_samples and plan.samples else 1
        #: Of samples asked for lately: index without the last digit → the path above it, the width of that digit.
        self._above: dict[int, tuple[str, int]] = {}
        self.instance_name = f"{step.directory}_{labels}" if labels else step.directory
        self.directory = self._directory(step)
        self._cmd = self._body(step.cmd)
        self._restart = self._cmd if step.restart is None else self._body(step.restart)

    def script_text(self, sample_index: int = 0, values: Sequence[str] = (), *, is_restart: bool = False) -> str:
        """`#!<shell>`, a blank line and the body, which ends with a newline.

        Args:
            values: the sample's values, one per column.
            is_restart: take `restart`, if the step has it.
        """
        parts, holes = self._restart if is_restart else self._cmd
        filled = parts.copy()
        for position, token in holes:
            filled[position] = self._sample_text(token, sample_index, values)
        text = "".join(filled)
        return text if text.endswith("\n") else text + "\n"

    def pattern(self, columns: Sequence[str], *, is_restart: bool = False) -> str:
        """The script of any sample, with `$(…)` where samples differ. For people to read.

        Args:
            columns: the names of the samples' columns.
        """
        parts, holes = self._restart if is_restart else self._cmd
        filled = parts.copy()
        for position, token in holes:
            name = _SAMPLE_NAMES.get(token.kind) or columns[int(token.argument)]
            filled[position] = f"$({name})"
        text = "".join(filled)
        return text if text.endswith("\n") else text + "\n"

    def script_name(self, *, is_restart: bool = False) -> str:
        """The script's file name."""
        return f"{self.instance_name}{'.restart' if is_restart else ''}{self.terms.script_ending}"

    def sample_directory(self, sample_index: int) -> str:
        """The directory in which a sample runs, absolute: the node's own if it has only one."""
        path = self._sample_path(sample_index)
        return f"{self.directory}/{path}" if path else self.directory

    def _sample_path(self, sample_index: int) -> str:
        # Samples come in a row for each slot: all but the last level is that of the one before, mostly.
        above, digit = divmod(sample_index, self._plan.level_max_dirs)
        known = self._above.get(above)
        if known is None:
            path = sample_path(sample_index, self._first_size, self._plan.level_max_dirs)
            head, slash, last = path.rpartition("/")
            if not slash:
                return path
            if len(self._above) >= _PATHS_MOST:
                self._above.clear()
            known = self._above[above] = (head + slash, len(last))
        return f"{known[0]}{digit:0{known[1]}d}"

    def _labels(self, step: PlanStep) -> str:
        """The sanitised labels of that step's parameters in this node's row."""
        return ".".join(safe_name(self._parameter(name).labels[self._row]) for name in step.parameters)

    def _directory(self, step: PlanStep) -> str:
        directory = os.path.join(self._plan.workspace, step.directory)
        return os.path.join(directory, self._labels(step)) if step.parameters else directory

    def _parameter(self, name: str) -> PlanParameter:
        return self._parameters[name]

    def _body(self, template: Template) -> tuple[list[str], tuple[tuple[int, Token], ...]]:
        """The script with all but the sample put in, and where the sample's holes are. Nothing is scanned again."""
        parts = [f"#!{self.shell}\n\n"]
        holes: list[tuple[int, Token]] = []
        for part in template:
            text = part if isinstance(part, str) else self._row_text(part)
            if text is None:
                assert isinstance(part, Token)
                holes.append((len(parts), part))
            parts.append(text or "")
        return parts, tuple(holes)

    def _row_text(self, token: Token) -> str | None:
        """What the row decides; None for what the sample does."""
        match token.kind:
            case TokenKind.PARAMETER:
                return self._parameter(token.argument).values[self._row]
            case TokenKind.PARAMETER_LABEL:
                return self._parameter(token.argument).labels[self._row]
            case TokenKind.TERMS_TEXT:
                return self.terms.texts[int(token.argument)]
            case TokenKind.WORKSPACE:
                return self.directory
            case TokenKind.STEP_WORKSPACE:
                return self._directory(next(step for step in self._plan.steps if step.name == token.argument))
            case TokenKind.ALL_PATHS:
                table = self._plan.samples
                return all_paths(table.count, table.first_count, self._plan.level_max_dirs) if table else ""
            case _:
                return None

    def _sample_text(self, token: Token, sample_index: int, values: Sequence[str]) -> str:
        match token.kind:
            case TokenKind.SAMPLE_VALUE:
                return values[int(token.argument)]
            case TokenKind.SAMPLE_ID:
                return str(sample_index)
            case TokenKind.SAMPLE_PATH:
                return self._sample_path(sample_index)
            case TokenKind.SAMPLE_VECTOR:
                return " ".join(values)
            case _:
                raise AssertionError(token)
