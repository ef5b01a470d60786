"""Pauses that grow: between tries of what may heal, and looks for what may come soon or late."""

from __future__ import annotations

from collections.abc import Iterator


def pauses(first_s: float, longest_s: float, *, factor: float = 2.0) -> Iterator[float]:
    """Seconds to wait before the second try, the third and so on, without end."""
    pause_s = first_s
    while True:
        yield min(pause_s, longest_s)
        pause_s = min(pause_s * factor, longest_s)


def pause_after(failures: int, first_s: float, longest_s: float) -> float:
    """Seconds to wait after so many failures in a row: twice as long after each, and not longer than the longest."""
    return min(longest_s, first_s * 2.0 ** min(failures - 1, 64))
