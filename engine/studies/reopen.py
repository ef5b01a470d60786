"""Opening a study again: a new run of the same plan in the same workspace, of which a part is done already.

    workspace → plan and journals → what runs again → submit with the past → commit, replacing the old run

Nothing but the workspace is needed: a server that has forgotten the study is told of it again. It never touches a study
that still runs.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec.structs import replace

from mrun.engine.errors import NotFoundError, UsageError
from mrun.engine.plan.model import Plan
from mrun.engine.store.questions import UNFINISHED, priority_of, state_of
from mrun.engine.store.seal import Seal
from mrun.engine.store.store import Store
from mrun.engine.studies.enqueue import Opening, Order, Queued, enqueue_run
from mrun.engine.workspace.downstream import with_downstream
from mrun.engine.workspace.history import Selection, count_again, past_of, read_fates, select, with_added, without
from mrun.engine.workspace.plan_file import WorkspaceStudy, opened, run_key
from mrun.engine.workspace.run_base import Fates, write_base


class Reopened(msgspec.Struct, frozen=True):
    """A new run, or none because nothing was to be done."""

    queued: Queued | None
    run: int
    #: Samples that will run, as far as is known now: those behind a sample that fails again, or that is left as it is,
    #: may be skipped.
    again: int
    kept: int
    #: Of those that are kept: which did not finish, were not selected, and stay as they are.
    left: int = 0


async def reopen(store: Store, seal: Seal, workspace: str | Path, selection: Selection) -> Reopened:
    """Start a new run of the study in a workspace: of the selection, and of all that depends on it.

    What else did not finish keeps what it came to. A sample that never ran counts as cancelled in the new run, so that
    it does not run, and what waits for it sample by sample is skipped; a later selection may have it.

    Raises:
        NotFoundError: it is no workspace of a study; or the study has no step of a name that was selected.
        UsageError: the study has not ended, or another command opens it.
        WorkspaceError: it is not where it was queued, or is damaged.
        BrokerError: the server refused or went away; nothing has changed then.
    """
    with opened(workspace) as kept:
        return await _reopen(store, seal, kept, selection)


async def _reopen(store: Store, seal: Seal, kept: WorkspaceStudy, selection: Selection) -> Reopened:
    replaces = await ended_run(store, kept)
    fates, since = read_fates(kept.plan, kept.run)
    again = with_downstream(kept.plan, select(kept.plan, fates, selection))
    count, left = count_again(fates, again)
    total = sum(len(own) for own in fates)
    if count == 0:
        return Reopened(None, kept.run, 0, total, left)
    remaining = without(fates, again)
    opening = Opening(kept.study, kept.run + 1, past_of(remaining, again), replaces, since)
    queued = await _open_run(store, seal, kept, opening, remaining, since)
    return Reopened(queued, kept.run + 1, count, total - count, left)


async def reopen_grown(store: Store, seal: Seal, kept: WorkspaceStudy, plan: Plan) -> Queued:
    """Start a new run, with a plan that has more samples: of these, and of all that depends on them.

    What did not finish before keeps what it came to, as with `reopen`. Raises as `reopen`.
    """
    replaces = await ended_run(store, kept)
    old, since = read_fates(kept.plan, kept.run)
    fates, added = with_added(plan, old)
    again = with_downstream(plan, added)
    remaining = without(fates, again)
    opening = Opening(kept.study, kept.run + 1, past_of(remaining, again), replaces, since)
    return await _open_run(store, seal, replace(kept, plan=plan), opening, remaining, since)


async def _open_run(
    store: Store, seal: Seal, kept: WorkspaceStudy, opening: Opening, remaining: Fates, since: int
) -> Queued:
    # First what the new run begins with, so that the journals of old runs do not count for it, whatever happens now.
    write_base(kept.plan, opening.run, remaining, since)
    priority = await priority_of(store, opening.replaces) if opening.replaces else 0
    order = Order(kept.plan.spec_path, priority=priority)
    return await enqueue_run(store, seal, kept.plan, order, opening)


async def ended_run(store: Store, kept: WorkspaceStudy) -> str:
    """The run that the server still knows, if any: the last one, or the one before if the last was never committed."""
    for run in (kept.run, kept.run - 1):
        key = run_key(kept.study, run)
        state = await state_of(store, key)
        if state in UNFINISHED:
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
