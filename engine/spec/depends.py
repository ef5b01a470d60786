"""The dependencies between steps, as far as they are known before tokens are expanded: names and cycles."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from mrun.engine.nearest import nearest_hint
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
    """A depth-first walk with a stack of its own: a chain of steps may be longer than Python's."""
    settled: set[str] = set()
    reported: set[str] = set()
    for start in edges:
        if start in settled:
            continue
        trail = [start]
        walks: list[Iterator[tuple[str, Text]]] = [iter(edges[start])]
        while walks:
            target, text = next(walks[-1], (None, None))
            if target is None or text is None:
                settled.add(trail.pop())
                walks.pop()
            elif target in trail:
                cycle = trail[trail.index(target) :]
                if reported.isdisjoint(cycle):
                    _report(cycle, text, problems)
                reported.update(cycle)
            elif target not in settled:
                trail.append(target)
                walks.append(iter(edges[target]))


def _report(cycle: list[str], text: Text, problems: Problems) -> None:
    shown = " → ".join([*cycle, cycle[0]])
    problems.add(
        f"These steps wait for each other: {shown}.",
        text,
        "Remove one of these dependencies ('a → b': a depends on b).",
    )
