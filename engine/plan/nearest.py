"""The hint for a name that is not known: the nearest one that is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest_hint(name: str, known: Iterable[str]) -> str:
    """A question with the nearest known name, or nothing if none is near. Case is not looked at."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    nearest = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    return f"Did you mean '{by_folded[nearest[0]]}'?" if nearest else ""
