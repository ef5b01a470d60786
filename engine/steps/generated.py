"""`--pgen FILE`: a user's Python file gives the parameter table in place of `global.parameters`."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mrun.engine.errors import Problem, SpecError
from mrun.engine.spec.model import Parameter, Spec, Text, Tree

FUNCTION = "get_custom_generator"
_BLOCK = "global.parameters"
_FORM = "Return {'SIZE': {'values': [1, 2], 'label': 'SIZE.%%'}}, or a ParameterGenerator."


class Variable(msgspec.Struct, frozen=True):
    """What `env.find(name)` gives."""

    name: str
    value: str


class Environment(dict[str, str]):
    """The variables of `env`, as far as a generator may ask for them; with Maestro's `find`."""

    def find(self, name: str) -> Variable | None:
        """The variable of that name, with or without `$()` around it; None if there is none."""
        name = name.removeprefix("$(").removesuffix(")")
        return Variable(name, self[name]) if name in self else None


class ParameterGenerator:
    """Stands in for Maestro's class of this name where Maestro is not installed."""

    def __init__(self, token: str = "$", ltoken: str = "%%") -> None:
        self.parameters: dict[str, list[Any]] = {}
        self.labels: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        self.token, self.label_token = token, ltoken

    def add_parameter(self, key: str, values: Sequence[Any], label: Any = None, name: str | None = None) -> None:
        """A column of the table."""
        self.parameters[key] = list(values)
        self.labels[key] = label or f"{key}.{self.label_token}"
        self.names[key] = name or key


def with_generated(spec: Spec, path: str, arguments: Mapping[str, str], variables: Mapping[str, str]) -> Spec:
    """The spec with the table that a file's `get_custom_generator(env, **arguments)` returns.

    Raises:
        SpecError: the file can't be read, its code fails, or what it returns is no table.
    """
    columns = _columns(_run(path, arguments, Environment(variables)), path)
    parameters = tuple(_parameter(name, column, path) for name, column in columns.items())
    assert isinstance(spec.tree, dict)
    tree: dict[str, Tree] = {**spec.tree, _BLOCK: {parameter.name.value: _tree(parameter) for parameter in parameters}}
    return msgspec.structs.replace(spec, parameters=parameters, tree=tree)


def _run(path: str, arguments: Mapping[str, str], environment: Environment) -> Any:
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        raise _unfit(path, f"can't be read: {error.strerror}") from error
    module = types.ModuleType("pgen")
    module.__file__ = os.path.abspath(path)
    # stdout is the command's data.
    with _maestro_stand_in(), contextlib.redirect_stdout(sys.stderr):
        try:
            exec(compile(source, path, "exec"), module.__dict__)
            function = getattr(module, FUNCTION, None)
            if callable(function):
                return function(environment, **arguments)
        except Exception as error:
            line = _line_of(error, path)
            message = f"The parameter generator failed with {type(error).__name__}: {error}"
            # The user's own code may raise anything: here it is a mistake in a file of the study's.
            raise SpecError([Problem(message, path, line)]) from error
    raise _unfit(path, f"has no function {FUNCTION}(env, **kwargs)")


def _line_of(error: Exception, path: str) -> int:
    if isinstance(error, SyntaxError):
        return error.lineno or 0
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return (lines[-1] or 0) if lines else 0


@contextlib.contextmanager
def _maestro_stand_in() -> Iterator[None]:
    """Maestro's own module where it is installed; else one that has its ParameterGenerator, while the file runs."""
    if importlib.util.find_spec("maestrowf") is not None:
        yield
        return
    names = ("maestrowf", "maestrowf.datastructures", "maestrowf.datastructures.core")
    modules = {name: types.ModuleType(name) for name in names}
    for module in modules.values():
        vars(module).update(ParameterGenerator=ParameterGenerator, __path__=[])
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


def _columns(table: Any, path: str) -> dict[str, dict[str, Any]]:
    """The columns by name, in the shape that they have in YAML."""
    if isinstance(table, Mapping):
        columns = table.get(_BLOCK, table)
        if not isinstance(columns, Mapping) or not all(isinstance(column, Mapping) for column in columns.values()):
            raise _unfit(path, "returned a mapping that is no parameter table")
        return {str(name): dict(column) for name, column in columns.items()}
    if not isinstance(getattr(table, "parameters", None), Mapping):
        raise _unfit(path, f"returned {type(table).__name__}, which is no parameter table")
    labels, names = getattr(table, "labels", {}), getattr(table, "names", {})
    return {
        str(name): {"values": values, "label": labels.get(name, f"{name}.%%"), "name": names.get(name)}
        for name, values in table.parameters.items()
    }


def _parameter(name: str, column: Mapping[str, Any], path: str) -> Parameter:
    values = _list(column.get("values"))
    if not values:
        raise _unfit(path, f"gives the parameter '{name}' no list of values")
    label = column.get("label") or f"{name}.%%"
    texts = _list(label)
    if texts is not None and len(texts) != len(values):
        raise _unfit(path, f"gives the parameter '{name}' {len(values)} values and {len(texts)} labels")
    shown = column.get("name")
    return Parameter(
        Text(name),
        tuple(Text(str(value)) for value in values),
        Text(str(label)) if texts is None else tuple(Text(str(one)) for one in texts),
        Text(str(shown)) if shown else None,
    )


def _list(values: Any) -> list[Any] | None:
    """A list of any make: numpy's arrays and ranges, too. A text is none."""
    return None if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__iter__") else list(values)


def _tree(parameter: Parameter) -> dict[str, Tree]:
    label: Tree = parameter.label if isinstance(parameter.label, Text) else list(parameter.label)
    shown: dict[str, Tree] = {"name": parameter.shown_name} if parameter.shown_name else {}
    return {"values": list(parameter.values), "label": label, **shown}


def _unfit(path: str, what: str) -> SpecError:
    return SpecError([Problem(f"The parameter generator '{path}' {what}.", path, hint=_FORM)])
