"""Opening a study again: a new run of the same plan in the same workspace, of which a part is done already.

    workspace → kept plan + journals → what runs again → submit with its past → commit, replacing the old run

    workspace → plan and journals → what runs again → submit with the past → commit, replacing the old run
again. It never touches a study that still runs.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from mrun.engine.enqueue import Opening, Order, Queued, enqueue_run
from mrun.engine.errors import NotFoundError, UsageError
from mrun.engine.plan.downstream import with_downstream
from mrun.engine.plan.kept import KeptStudy, read_kept, run_key
from mrun.engine.store.seal import Seal
from mrun.engine.store.store import Store
from mrun.engine.work.history import Selection, keep_base, past_of, read_fates, select, without


class Reopened(msgspec.Struct, frozen=True):
    """A new run, or none because nothing was to be done."""

    queued: Queued | None
    run: int
    #: Samples that will run, as far as is known now: those behind a sample that fails again may be skipped.
    again: int
    kept: int


async def reopen(store: Store, seal: Seal, workspace: str | Path, selection: Selection) -> Reopened:
    """Start a new run of the study in a workspace.

    Raises:
        NotFoundError: it is no workspace of a study; or the study has no step of a name that was selected.
        UsageError: the study has not ended.
        BrokerError: the server refused or went away; nothing has changed then.
    """
    kept = read_kept(workspace)
    replaces = await _ended_run(store, kept)
    fates, since = read_fates(kept.plan, kept.run)
    again = with_downstream(kept.plan, select(kept.plan, fates, selection))
    count = sum(int(own.sum()) for own in again)
    total = sum(len(own) for own in fates)
    if count == 0:
        return Reopened(None, kept.run, 0, total)
    # First what the new run begins with, so that the journals of old runs do not count for it, whatever happens now.
    remaining = without(fates, again)
    keep_base(kept.plan, kept.run + 1, remaining, since)
    opening = Opening(kept.study, kept.run + 1, past_of(remaining), replaces)
    queued = await enqueue_run(store, seal, kept.plan, Order(kept.plan.spec_path), opening)
    return Reopened(queued, kept.run + 1, count, total - count)


async def _ended_run(store: Store, kept: KeptStudy) -> str:
    """The run that the server still knows, if any: the last one, or the one before if the last was never committed."""
    for run in (kept.run, kept.run - 1):
        key = run_key(kept.study, run)
        state = await store.call("HGET", store.keys.study(key), "state")
        if state in (b"running", b"stopping"):
            raise UsageError(
                f"Study '{key}' has not ended: what is queued or running is not run a second time.",
                hint=f"Wait for it (`mrun wait {key}`), or stop it first (`mrun cancel {key}`).",
            )
        if state is not None:
            return key
    return ""


def workspace_of(selector: str, found: str | None) -> str:
    """The workspace that a command's word means: the word itself, or that of the study that the server found by it.

    Raises:
        NotFoundError: neither.
    """
    if found is not None:
        return found
    if Path(selector).is_dir():
        return selector
    raise NotFoundError(
        f"'{selector}' is neither a workspace nor a study that the server knows.",
        hint="Name the workspace: the directory that `mrun queue` printed.",
    )
