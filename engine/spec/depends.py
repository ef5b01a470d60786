"""The dependencies between steps, as far as they are known before tokens are expanded: names and cycles."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from msgspec.structs import replace

from mrun.engine.nearest import nearest_hint
from mrun.engine.spec.circles import find_circles
from mrun.engine.spec.model import Step, Text
from mrun.engine.spec.problems import Problems, quoted
from mrun.engine.spec.texts import has_token

_FUNNEL = re.compile(r"_?\*$")


def check_depends(steps: tuple[Step, ...], problems: Problems) -> tuple[Step, ...]:
    """Note unknown names (unless a token may still make them known), and each cycle once.

    Returns:
        The steps without the dependencies that were noted: nobody finds anything wrong with these again.
    """
    names = list(dict.fromkeys(step.name.value for step in steps if step.name.value))
    may_grow = any(has_token(name) for name in names)
    edges: dict[str, list[tuple[str, Text]]] = {step.name.value: [] for step in steps}
    wrong: set[Text] = set()
    for step in steps:
        for text in step.run.depends:
            target = find_target(text.value, names)
            if target is not None:
                edges[step.name.value].append((target, text))
            elif not may_grow and not has_token(text.value):
                wrong.add(text)
                owner = f"Step {quoted(step.name.value)}" if step.name.value else "A step"
                message = f"{owner} depends on {quoted(text.value)}, which is no step."
                problems.add(message, text, nearest_hint(_FUNNEL.sub("", text.value), names))
    wrong.update(_check_cycles(edges, problems))
    return tuple(_without(step, wrong) for step in steps) if wrong else steps


def _without(step: Step, wrong: set[Text]) -> Step:
    depends = tuple(text for text in step.run.depends if text not in wrong)
    return replace(step, run=replace(step.run, depends=depends))


def find_target(depends: str, names: Collection[str]) -> str | None:
    """The step that a `depends` entry means: its name, or the name with `_*` or `*` after it (all combinations)."""
    for candidate in (depends, depends.removesuffix("_*"), depends.removesuffix("*")):
        if candidate in names:
            return candidate
    return None


def _check_cycles(edges: dict[str, list[tuple[str, Text]]], problems: Problems) -> Iterator[Text]:
    """Note each cycle at the dependency that closes it, and yield that."""
    for cycle in find_circles({name: [target for target, _ in parents] for name, parents in edges.items()}):
        closing = next(text for target, text in edges[cycle[-1]] if target == cycle[0])
        shown = " → ".join([*cycle, cycle[0]])
        problems.add(
            f"These steps wait for each other: {shown}.",
            closing,
            "Remove one of these dependencies ('a → b': a depends on b).",
        )
        yield closing
