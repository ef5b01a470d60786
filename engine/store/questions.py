"""What other rooms ask the server of one study. They speak no Redis word, and know no name of a field."""

from __future__ import annotations

from mrun.engine.store.store import Store

#: States of a study that has not ended.
UNFINISHED = ("running", "stopping")


async def state_of(store: Store, study: str) -> str | None:
    """Its state. None: the server does not know it."""
    return await _fact(store, study, "state")


async def root_of(store: Store, study: str) -> str | None:
    """The study at the beginning of the chain in which steps queue studies. None: the server does not know it."""
    return await _fact(store, study, "root")


async def priority_of(store: Store, study: str) -> int:
    """Its priority; 0 if it is not known."""
    return int(await _fact(store, study, "priority") or 0)


async def edition_of(store: Store, study: str) -> int:
    """How often samples were added to it; 0 if it is not known."""
    return int(await _fact(store, study, "edition") or 0)


async def _fact(store: Store, study: str, name: str) -> str | None:
    value = await store.call("HGET", store.keys.study(study), name)
    return None if value is None else value.decode()
