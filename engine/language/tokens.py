r"""Text → literals and `$(NAME)` occurrences.

The innermost `$(…)` counts: in `$(echo $(X))` it is `$(X)`. An odd number of backslashes before the dollar makes it
text, and the backslash stays, because in a here-document or between double quotes it is the shell's own escape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from mrun.engine.spec.model import Text

#: `$(LAUNCHER)[4p]`, `[2n,4p]` and `[2, 4]`: nodes and processes for one use.
_BRACKETS = re.compile(r"\[\s*\d+\s*[np]?\s*(?:,\s*\d+\s*[np]?\s*)?\]")
_WITH_BRACKETS = frozenset({"LAUNCHER", "VLAUNCHER"})

_UNSAFE = re.compile(r"[^-_.() A-Za-z0-9]")


class Use(msgspec.Struct, frozen=True):
    """One `$(name)`, as it stands at `offset` of `text`. `raw` includes its brackets, if it has any."""

    name: str
    text: Text
    offset: int
    raw: str
    brackets: str = ""


#: Literals and uses, in order.
Flat = tuple[str | Use, ...]


class Scanner:
    """Finds the tokens of a text.

    Step names that hold parentheses must be known beforehand: nothing else tells where `$(run_$(SIZE).workspace)` ends.
    """

    def __init__(self, step_names: Iterable[str] = ()) -> None:
        awkward = sorted({name for name in step_names if "(" in name or ")" in name}, key=len, reverse=True)
        names = "".join(rf"{re.escape(name)}\.workspace|" for name in awkward)
        self._pattern = re.compile(rf"\$\(({names}[^()]+)\)")

    def scan(self, text: Text) -> Flat:
        """Literals and uses of `text`; joined, with `raw` for each use, they are the text again."""
        value = text.value
        if "$(" not in value:
            return (value,) if value else ()
        parts: list[str | Use] = []
        done = 0
        for match in self._pattern.finditer(value):
            start, end = match.span()
            if start < done or _is_escaped(value, start):
                continue
            brackets = _brackets_at(value, match.group(1), end)
            if start > done:
                parts.append(value[done:start])
            done = end + len(brackets)
            parts.append(Use(match.group(1), text, start, value[start:done], brackets))
        if done < len(value):
            parts.append(value[done:])
        return tuple(parts)


def safe_name(text: str) -> str:
    """The text as a directory's name: characters outside `-_.()`, letters and digits stripped, blanks made `_`."""
    return _UNSAFE.sub("", text).replace(" ", "_")


def _is_escaped(value: str, start: int) -> bool:
    first = start
    while first > 0 and value[first - 1] == "\\":
        first -= 1
    return (start - first) % 2 == 1


def _brackets_at(value: str, name: str, end: int) -> str:
    if name not in _WITH_BRACKETS:
        return ""
    match = _BRACKETS.match(value, end)
    return match.group() if match else ""
