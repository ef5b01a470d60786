"""When something that failed may be tried again: after a pause, that doubles as long as it is in vain."""

from __future__ import annotations

import time


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
