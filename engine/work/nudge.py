"""An event that can be waited for again and again."""

from __future__ import annotations

import anyio


class Nudge:
    """Wakes one who waits, or who waits next."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        """Wake who waits, or who waits next."""
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        """Until it is set, or the time is over; True if it was set. Takes the nudge."""
        with anyio.move_on_after(timeout_s):
            await self._event.wait()
        was_set = self._event.is_set()
        if was_set:
            self._event = anyio.Event()
        return was_set
