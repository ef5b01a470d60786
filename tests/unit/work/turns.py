"""Whether something long lets others have their turn."""

from __future__ import annotations

from collections.abc import Awaitable

import anyio
import anyio.lowlevel


async def turns_during(what: Awaitable[object]) -> int:
    """How many turns another duty had until it was done."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as others:
        others.start_soon(count)
        await what
        others.cancel_scope.cancel()
    return turns
