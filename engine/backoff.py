"""Pauses that grow: between tries of what may heal, and looks for what may come soon or late."""

from __future__ import annotations

import time
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


class BackOff:
    """Pauses between tries.

    Args:
        first_s: the pause after something worked, and after the first failure doubled.
        longest_s: no pause is longer.
    """

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._pause_s = first_s
        self._at = 0.0

    @property
    def left_s(self) -> float:
        """Until the next try; 0: now."""
        return max(0.0, self._at - time.monotonic())

    def soon(self) -> None:
        """Try again in the shortest pause, unless that is later than it would be anyway."""
        self._pause_s = self._first_s
        self._at = min(max(self._at, time.monotonic()), time.monotonic() + self._first_s)

    def again(self, *, in_vain: bool) -> None:
        """It was tried."""
        self._pause_s = min(2 * self._pause_s, self._longest_s) if in_vain else self._first_s
        self._at = time.monotonic() + self._pause_s
