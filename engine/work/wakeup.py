"""An event that can be waited for again and again."""

from __future__ import annotations

import anyio


class Wakeup:
    """Wakes the task that waits for it, or the next one that does."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        """Wake the task that waits, or the next one that does."""
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait until it is set, or the time is over. Returns whether it was set, and resets it."""
        with anyio.move_on_after(timeout_s):
            await self._event.wait()
        was_set = self._event.is_set()
        if was_set:
            self._event = anyio.Event()
        return was_set
