"""The vocabulary: the names that mrun gives a meaning to, and what each of them may mean."""

from __future__ import annotations

import enum

import msgspec

from mrun.engine.plan.model import TokenKind

#: Exit codes that steps may use to say what should happen next.
RETURN_CODES = {
    "MERLIN_SUCCESS": "0",
    "MERLIN_RESTART": "100",
    "MERLIN_SOFT_FAIL": "101",
    "MERLIN_HARD_FAIL": "102",
    "MERLIN_RETRY": "104",
    "MERLIN_STOP_WORKERS": "105",
    "MERLIN_RAISE_ERROR": "106",
}

#: The copies of the spec in merlin_info, by the end of their file names.
SPEC_COPIES = {
    "MERLIN_SPEC_ORIGINAL_TEMPLATE": ".orig.yaml",
    "MERLIN_SPEC_EXECUTED_RUN": ".partial.yaml",
    "MERLIN_SPEC_ARCHIVED_COPY": ".expanded.yaml",
}

#: Tokens that differ from sample to sample; any of them makes a step a sample step.
SAMPLE_TOKENS = {
    "MERLIN_SAMPLE_ID": TokenKind.SAMPLE_ID,
    "MERLIN_SAMPLE_PATH": TokenKind.SAMPLE_PATH,
    "MERLIN_SAMPLE_VECTOR": TokenKind.SAMPLE_VECTOR,
}

#: Tokens that tell of the whole table of samples.
TABLE_TOKENS = frozenset({"MERLIN_SAMPLE_NAMES", "MERLIN_GLOB_PATH", "MERLIN_PATHS_ALL"})

#: Tokens with one value for the whole study.
STUDY_TOKENS = frozenset(
    {"SPECROOT", "OUTPUT_PATH", "MERLIN_WORKSPACE", "MERLIN_INFO", "MERLIN_TIMESTAMP", *RETURN_CODES, *SPEC_COPIES}
)

_TOKENS = STUDY_TOKENS | TABLE_TOKENS | SAMPLE_TOKENS.keys() | {"WORKSPACE", "LAUNCHER", "VLAUNCHER"}

#: Every built-in name, `MRUN_X` beside `MERLIN_X`.
BUILT_IN = _TOKENS | {"MRUN_" + name.removeprefix("MERLIN_") for name in _TOKENS if name.startswith("MERLIN_")}

#: Names that `env` and `--vars` may not set.
RESERVED = BUILT_IN - {"OUTPUT_PATH"}


class Meaning(enum.Enum):
    """What a name stands for, when it is not a variable or a label of `env`."""

    STUDY = enum.auto()  # argument: a name of STUDY_TOKENS, or of a path dependency
    PARAMETER = enum.auto()  # argument: the parameter's name
    PARAMETER_LABEL = enum.auto()
    PARAMETER_NAME = enum.auto()
    WORKSPACE = enum.auto()
    STEP_WORKSPACE = enum.auto()  # argument: the step's index, decimal
    SAMPLE = enum.auto()  # argument: a name of SAMPLE_TOKENS, or a column's index, decimal
    TABLE = enum.auto()  # argument: a name of TABLE_TOKENS
    LAUNCHER = enum.auto()
    VARIABLE_LAUNCHER = enum.auto()


PARAMETER_MEANINGS = frozenset({Meaning.PARAMETER, Meaning.PARAMETER_LABEL, Meaning.PARAMETER_NAME})


class Named(msgspec.Struct, frozen=True):
    """What a name means. `is_other_case` tells that it matched only when case was ignored."""

    meaning: Meaning
    argument: str = ""
    is_other_case: bool = False


def merlin_name(name: str) -> str:
    """`MERLIN_X` for its synonym `MRUN_X`; any other name as it is."""
    return "MERLIN_" + name[len("MRUN_") :] if name.startswith("MRUN_") else name


def built_in(name: str) -> Named | None:
    """The meaning of a built-in name, else None."""
    name = merlin_name(name)
    if name in STUDY_TOKENS:
        return Named(Meaning.STUDY, name)
    if name in SAMPLE_TOKENS:
        return Named(Meaning.SAMPLE, name)
    if name in TABLE_TOKENS:
        return Named(Meaning.TABLE, name)
    alone = {
        "WORKSPACE": Meaning.WORKSPACE,
        "LAUNCHER": Meaning.LAUNCHER,
        "VLAUNCHER": Meaning.VARIABLE_LAUNCHER,
    }
    return Named(alone[name]) if name in alone else None
