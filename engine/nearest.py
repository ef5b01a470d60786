"""The hint for a name that is not known: the nearest one that is. For every room."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: When none is near: so many known names are listed.
_LISTED_MOST = 50


def nearest_name(name: str, known: Iterable[str]) -> str:
    """The nearest known name; nothing if none is near. Case is not looked at."""
    by_folded = _by_folded(known)
    nearest = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    return by_folded[nearest[0]] if nearest else ""


def nearest_hint(name: str, known: Iterable[str], *, lists_known: bool = True) -> str:
    """A question with the nearest known name; if none is near, the known ones, or nothing. Case is not looked at."""
    names = list(_by_folded(known).values())
    nearest = nearest_name(name, names)
    if nearest:
        return f"Did you mean '{nearest}'?"
    if not names or not lists_known:
        return ""
    shown = names if len(names) <= _LISTED_MOST else [*names[:_LISTED_MOST], "…"]
    return f"Known here: {', '.join(shown)}."


def _by_folded(known: Iterable[str]) -> dict[str, str]:
    return {candidate.casefold(): candidate for candidate in sorted(known)}
