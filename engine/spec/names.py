"""The names that mrun keeps for itself, and the rules between the names of one spec."""

from __future__ import annotations

import re

import msgspec

from mrun.engine.spec.model import Text
from mrun.engine.spec.problems import Problems, quoted

_TOKEN_SUFFIXES = (
    "GLOB_PATH",
    "HARD_FAIL",
    "INFO",
    "PATHS_ALL",
    "RAISE_ERROR",
    "RESTART",
    "RETRY",
    "SAMPLE_ID",
    "SAMPLE_NAMES",
    "SAMPLE_PATH",
    "SAMPLE_VECTOR",
    "SOFT_FAIL",
    "SPEC_ARCHIVED_COPY",
    "SPEC_EXECUTED_RUN",
    "SPEC_ORIGINAL_TEMPLATE",
    "STOP_WORKERS",
    "SUCCESS",
    "TIMESTAMP",
    "WORKSPACE",
)

#: Tokens that mrun gives a value; nobody else may.
RESERVED_NAMES = frozenset(
    {"SPECROOT", "WORKSPACE", "LAUNCHER", "VLAUNCHER"}
    | {prefix + suffix for prefix in ("MERLIN_", "MRUN_") for suffix in _TOKEN_SUFFIXES}
)

_NOT_IN_NAMES = re.compile(r"[$()\s]")


def check_name(name: Text, owner: str, problems: Problems) -> None:
    """Note a name that can't be a token's, or that mrun keeps for itself."""
    if name.value in RESERVED_NAMES:
        problems.add(f"{quoted(name.value)} is a name that mrun sets itself.", name, f"Rename this {owner}.")
    elif not name.value:
        problems.add(f"This {owner} has an empty name.", name, "Give it a name.")
    elif _NOT_IN_NAMES.search(name.value):
        message = f"{quoted(name.value)} can't be the name of a {owner}, because $({name.value}) would be no token."
        problems.add(message, name, "Use letters, digits, '_', '-' and '.'.")


class SpecNames(msgspec.Struct, frozen=True):
    """All names of one spec that a token may mean, each with its place."""

    variables: tuple[Text, ...]
    labels: tuple[Text, ...]
    dependencies: tuple[Text, ...]
    parameters: tuple[Text, ...]
    columns: tuple[Text, ...]


def check_clashes(names: SpecNames, problems: Problems) -> None:
    """Note names that stand for two things."""
    seen: dict[str, tuple[str, Text]] = {}
    for owner, group in (("variable", names.variables), ("label", names.labels), ("dependency", names.dependencies)):
        for name in group:
            if name.value in seen:
                problems.add(_clash(name, owner, seen[name.value]), name, "Rename one of the two.")
            seen.setdefault(name.value, (owner, name))
    for name in names.parameters:
        before = seen.setdefault(name.value, ("parameter", name))
        if before[0] != "parameter":
            # Merlin runs such a spec: the variable is replaced first, and the parameter is never used.
            hint = f"Rename one of the two: $({name.value}) is the {before[0]}."
            problems.warn(_clash(name, "parameter", before), name, hint)
    for name in names.columns:
        if name.value in seen:
            problems.add(_clash(name, "sample column", seen[name.value]), name, "Rename one of the two.")


def _clash(name: Text, owner: str, before: tuple[str, Text]) -> str:
    return f"{quoted(name.value)} is the name of a {owner}, and of a {before[0]} at line {before[1].line}."
