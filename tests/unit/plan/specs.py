"""Specs made by hand, for tests of the plan room alone: no YAML, and every text has a place."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from mrun.engine.errors import SpecError
from mrun.engine.language.places import Place
from mrun.engine.plan.model import Plan, SampleTable
from mrun.engine.spec.keys import RUN_KEYS
from mrun.engine.spec.model import Batch, Parameter, Run, Samples, Spec, Step, Text
from mrun.engine.steps.compile import compile_plan
from mrun.engine.steps.render import NodeText
from mrun.engine.steps.resolved import Resolved, resolve_study

NOW = datetime(2026, 3, 4, 5, 6, 7)
CWD = "/area"

_lines = itertools.count(1)


def text(value: str) -> Text:
    """A text on a line of its own."""
    return Text(value, next(_lines), 1)


def step(name: str, cmd: str = "true", depends: Sequence[str] = (), **run: Any) -> Step:
    """A step; texts of its run block are given as strings."""
    description = text(run.pop("description", "A step."))
    settings = {key: run.pop(key) for key in tuple(run) if key in RUN_KEYS}
    if settings:
        run["settings"] = settings | run.get("settings", {})
    for key, value in run.items():
        if isinstance(value, str):
            run[key] = text(value)
        elif isinstance(value, dict):
            run[key] = {inner: text(str(item)) for inner, item in value.items()}
    run = {"cmd": text(cmd), "depends": tuple(map(text, depends)), **run}
    return Step(text(name), description, Run(**run))


def parameter(name: str, values: Sequence[object], label: str | Sequence[str] = "") -> Parameter:
    """A parameter, labelled `NAME.%%` if nothing else is said."""
    shown = text(label or f"{name}.%%") if isinstance(label, str) else tuple(map(text, label))
    return Parameter(text(name), tuple(text(str(value)) for value in values), shown)


def make_spec(*steps: Step, **rest: Any) -> Spec:
    """A spec. `variables`, `labels` and `columns` are given as strings."""
    columns = rest.pop("columns", None)
    if columns is not None:
        rest["samples"] = Samples(text("samples.npy"), tuple(map(text, columns)), **rest.pop("samples_rest", {}))
    for key in ("variables", "labels"):
        rest[key] = {name: text(value) for name, value in rest.get(key, {}).items()}
    rest.setdefault("batch", Batch())
    name = text(rest.pop("name", "study"))
    return Spec(
        path="/specs/the.yaml",
        original=b"",
        tree={},
        name=name,
        description=text("A study."),
        steps=steps or (step("only"),),
        **rest,
    )


def resolved(spec: Spec, **rest: Any) -> Resolved:
    """The spec, read; its place is /area/study_20260304-050607, unless something else is said."""
    chosen = {"variables": {}, "output_path": None, "now": NOW, "environment": {}, "cwd": CWD} | rest
    return resolve_study(spec, **chosen)


def place(spec: Spec, **rest: Any) -> Place:
    """Where it goes."""
    return resolved(spec, **rest).place


def table(count: int, columns: Sequence[str] = ("X",)) -> SampleTable:
    """A table of samples that is not there."""
    return SampleTable("npy", "/nowhere.npy", count, tuple(columns), 0, 0)


def plan(spec: Spec, count: int = 3, environment: Mapping[str, str] | None = None, **rest: Any) -> Plan:
    """The plan of a spec, with `count` samples if it has any."""
    columns = [label.value for label in spec.samples.column_labels] if spec.samples else []
    samples = table(count, columns) if spec.samples else None
    return compile_plan(resolved(spec, environment=environment or {}, **rest), samples)


def problems(spec: Spec, **rest: Any) -> list[str]:
    """What is wrong with a spec, by message; nothing if nothing is."""
    try:
        plan(spec, **rest)
    except SpecError as error:
        return [problem.message for problem in error.problems]
    return []


def body(the_plan: Plan, node: int = 0, sample: int = 0, values: Sequence[str] = ("1.5",), **rest: Any) -> str:
    """The script of a node without its first two lines and its last newline."""
    script = NodeText(the_plan, node).script_text(sample, values, **rest)
    return script.split("\n", 2)[2].removesuffix("\n")
