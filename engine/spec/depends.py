"""The dependencies between steps, as far as they are known before tokens are expanded: names and cycles."""

from __future__ import annotations

import re
from collections.abc import Collection

from mrun.engine.nearest import nearest_hint
from mrun.engine.spec.circles import find_circles
from mrun.engine.spec.model import Step, Text
from mrun.engine.spec.problems import Problems, quoted
from mrun.engine.spec.texts import has_token

_FUNNEL = re.compile(r"_?\*$")


def check_depends(steps: tuple[Step, ...], problems: Problems) -> None:
    """Note unknown names (unless a token may still make them known), and each cycle once."""
    names = list(dict.fromkeys(step.name.value for step in steps if step.name.value))
    may_grow = any(has_token(name) for name in names)
    edges: dict[str, list[tuple[str, Text]]] = {step.name.value: [] for step in steps}
    for step in steps:
        for text in step.run.depends:
            target = find_target(text.value, names)
            if target is not None:
                edges[step.name.value].append((target, text))
            elif not may_grow and not has_token(text.value):
                owner = f"Step {quoted(step.name.value)}" if step.name.value else "A step"
                message = f"{owner} depends on {quoted(text.value)}, which is no step."
                problems.add(message, text, nearest_hint(_FUNNEL.sub("", text.value), names))
    _check_cycles(edges, problems)


def find_target(depends: str, names: Collection[str]) -> str | None:
    """The step that a `depends` entry means: its name, or the name with `_*` or `*` after it (all combinations)."""
    for candidate in (depends, depends.removesuffix("_*"), depends.removesuffix("*")):
        if candidate in names:
            return candidate
    return None


def _check_cycles(edges: dict[str, list[tuple[str, Text]]], problems: Problems) -> None:
    """Note each cycle at the dependency that closes it."""
    for cycle in find_circles({name: [target for target, _ in parents] for name, parents in edges.items()}):
        closing = next(text for target, text in edges[cycle[-1]] if target == cycle[0])
        _report(cycle, closing, problems)


def _report(cycle: list[str], text: Text, problems: Problems) -> None:
    shown = " → ".join([*cycle, cycle[0]])
    problems.add(
        f"These steps wait for each other: {shown}.",
        text,
        "Remove one of these dependencies ('a → b': a depends on b).",
    )
