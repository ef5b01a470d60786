"""The hint for a name that is not known: the nearest one that is. For every room."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: When none is near: so many known names are listed.
_LISTED_MOST = 50


def nearest_hint(name: str, known: Iterable[str], *, lists_known: bool = True) -> str:
    """A question with the nearest known name; if none is near, the known ones, or nothing. Case is not looked at."""
    by_folded = {candidate.casefold(): candidate for candidate in sorted(known)}
    nearest = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    if nearest:
        return f"Did you mean '{by_folded[nearest[0]]}'?"
    if not by_folded or not lists_known:
        return ""
    names = list(by_folded.values())
    shown = names if len(names) <= _LISTED_MOST else [*names[:_LISTED_MOST], "…"]
    return f"Known here: {', '.join(shown)}."
