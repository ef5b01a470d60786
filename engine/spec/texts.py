"""Texts of the file → booleans, numbers, walltimes. Each answers None for a text that is not one."""

from __future__ import annotations

import math
import re

_TRUE = frozenset({"yes", "on", "true"})
_FALSE = frozenset({"no", "off", "false"})
#: The integers of YAML 1.1 and 1.2, but for leading zeros: 010 is eight to the one and ten to the other.
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]*[0-9a-fA-F]|0b[01_]*[01]|0o[0-7_]*[0-7])")
_DECIMAL = re.compile(r"[-+]?[0-9][0-9_]*")
#: A real number is one that YAML 1.1 takes for one, as Merlin does: it has a point, and its exponent a sign.
_REAL = re.compile(r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?")
_SPECIAL = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_WALLTIME = re.compile(r"[0-9]+(?::[0-9]+){0,3}")
#: int() refuses longer texts.
_MAX_DIGITS = 4_000


def has_token(text: str) -> bool:
    """Whether the text holds a `$(NAME)`: then what it will be is not known yet."""
    return "$(" in text


def parse_flag(text: str) -> bool | None:
    """`yes`, `no`, `on`, `off`, `true`, `false`, in any case."""
    lowered = text.lower()
    return True if lowered in _TRUE else False if lowered in _FALSE else None


def parse_whole(text: str) -> int | None:
    """An integer of YAML 1.1: `1_000`, `0x10`, `0b11`, quoted or not. Not `010`, which may mean eight or ten."""
    if len(text) > _MAX_DIGITS or not _WHOLE.fullmatch(text):
        return None
    try:
        return int(text.replace("_", ""), 0)
    except ValueError:
        return None


def parse_number(text: str) -> float | None:
    """A finite number."""
    whole = parse_whole(text)
    try:
        number = float(whole) if whole is not None else float(text)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def normalise_number(text: str) -> str:
    """An unquoted number as Python prints it, for it names directories: `.75` → `0.75`, `1.50` → `1.5`.

    Forms that Merlin takes for texts stay as they are: `1e-3` has no point, `10:30` is a time.
    """
    if text.lower() in _SPECIAL:
        return _SPECIAL[text.lower()]
    if len(text) > _MAX_DIGITS:
        return text
    if _DECIMAL.fullmatch(text):
        return str(int(text.replace("_", "")))
    if _REAL.fullmatch(text):
        return str(float(text.replace("_", "")))
    whole = parse_whole(text)
    return text if whole is None else str(whole)


def has_leading_zero(text: str) -> bool:
    """Whether it is an integer such as `010`."""
    return _LEADING_ZERO.fullmatch(text) is not None


def is_walltime(text: str) -> bool:
    """`[[[d:]h:]m:]s`, where one number alone is seconds."""
    return _WALLTIME.fullmatch(text) is not None
