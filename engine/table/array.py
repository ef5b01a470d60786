"""The ids of an array (`1-100`, `0-99:10`, `1,5,7-9`): spans of numbers, never a list of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import msgspec

from mrun.engine.errors import UsageError

#: More samples than any study has: the table has a byte for each, though it takes no room on disk.
IDS_MOST = 1_000_000_000
#: Numbers of so many digits can be added up by any shell.
_SPAN = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18})(?::([0-9]{1,18}))?)?")
_GRAMMAR = "An array is a number, a range 1-100, a range with a step 0-99:10, or several of them: 1,5,7-9."


class Span(msgspec.Struct, frozen=True):
    """`first`, `first + step`, … `last`, which is one of them."""

    first: int
    last: int
    step: int = 1

    @property
    def count(self) -> int:
        """How many ids it has."""
        return (self.last - self.first) // self.step + 1


class Array(msgspec.Struct, frozen=True):
    """Ids in the order in which they were named; none is in it twice."""

    spans: tuple[Span, ...]

    @property
    def count(self) -> int:
        """How many ids it has."""
        return sum(span.count for span in self.spans)


def parse_array(text: str) -> Array:
    """What `--array` says. Costs what the text is long, not what the array is.

    Raises:
        UsageError: it is none; an id is in it twice; or it has more than `IDS_MOST`.
    """
    array = Array(tuple(_read_span(part.strip(), text) for part in text.split(",")))
    twice = _find_twice(array.spans)
    if twice is not None:
        raise UsageError(f"The array '{text}' names the id {twice} twice.", hint="Name every id once.")
    if array.count > IDS_MOST:
        raise UsageError(f"The array '{text}' has {array.count:,} ids, more than {IDS_MOST:,}.", hint="Split it.")
    return array


def _read_span(part: str, text: str) -> Span:
    found = _SPAN.fullmatch(part)
    if found is None:
        message = f"'{part}' of the array '{text}' is neither a number nor a range."
        limit = " How many run at once is up to the workers' slots, not to the array." if "%" in part else ""
        raise UsageError(message, hint=_GRAMMAR + limit)
    first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
    if last < first or step == 0:
        raise UsageError(f"The range '{part}' of the array '{text}' is empty.", hint=_GRAMMAR)
    return Span(first, last - (last - first) % step, step)


def _find_twice(spans: Sequence[Span]) -> int | None:
    """An id that two spans have, if there is one."""
    begun: list[Span] = []
    for span in sorted(spans, key=lambda one: one.first):
        begun = [one for one in begun if one.last >= span.first]
        for one in begun:
            shared = _first_shared(one, span)
            if shared is not None:
                return shared
        begun.append(span)
    return None


def _first_shared(one: Span, later: Span) -> int | None:
    """The first id of both, where `later` begins no earlier. By the Chinese remainder theorem, not by looking."""
    divisor = math.gcd(one.step, later.step)
    distance = one.first - later.first
    if distance % divisor:
        return None
    period = one.step // divisor
    # How often `later` steps until it is on the other's grid: the least number that is not negative.
    steps = distance // divisor * pow(later.step // divisor, -1, period) % period
    shared = later.first + steps * later.step
    return shared if shared <= min(one.last, later.last) else None
