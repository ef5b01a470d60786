"""More samples for a study: in place while it runs, and as a new run when it has ended.

    workspace → kept plan → table of the new samples → plan with both → grow, or reopen

The samples that are there keep their numbers and directories; the new ones follow. What waits for all samples of a step
waits for the new ones, too; if it has run already, it runs again.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec.structs import replace

from mrun.engine.errors import BrokerError, NotFoundError, UsageError, WorkspaceError
from mrun.engine.language.places import INFO_DIR
from mrun.engine.plan.model import Plan, SampleTable
from mrun.engine.store.questions import UNFINISHED, edition_of, state_of
from mrun.engine.store.seal import Seal
from mrun.engine.store.store import Store
from mrun.engine.studies.enqueue import Queued, queued_study, step_facts
from mrun.engine.studies.reopen import reopen_grown
from mrun.engine.table.paths import MAX_LISTED_PATHS
from mrun.engine.table.samples import bring_samples, open_samples, value_kind
from mrun.engine.workspace.plan_file import WorkspaceStudy, opened, run_key, write_plan


class Added(msgspec.Struct, frozen=True):
    """Samples that were added. `run` is the run of the study in which they run: a new one if it had ended."""

    queued: Queued
    run: int
    added: int
    is_new_run: bool
    warnings: tuple[str, ...]


class StillRunningError(UsageError):
    """A study can take no more samples until it has ended."""

    def __init__(self, study: str) -> None:
        super().__init__(
            f"Study '{study}' takes no more samples while it runs: what waits for all of them has begun.",
            hint=f"Add them when it has ended: `mrun add {study} --wait …` waits for that.",
        )
        self.study = study


async def add_samples(store: Store, seal: Seal, workspace: str | Path, path: str, *, is_lenient: bool = False) -> Added:
    """Add the samples of a file to the study in a workspace. If it raises, nothing has changed.

    Args:
        path: a table as for merlin.samples.file; it is copied into the workspace.
        is_lenient: warn of another number of columns than labels instead of refusing it.

    Raises:
        NotFoundError: it is no workspace of a study.
        UsageError: the study has no samples, can't have more of them, or another command opens it.
        WorkspaceError: it is not where it was queued, or is damaged.
        StillRunningError: it runs, and something has begun that waited for all samples that there were.
        SpecError: the file is unfit.
        BrokerError: the server refused or went away.
    """
    with opened(workspace) as kept:
        return await _add(store, seal, await _as_the_server_has_it(store, kept), path, is_lenient=is_lenient)


async def _add(store: Store, seal: Seal, kept: WorkspaceStudy, path: str, *, is_lenient: bool) -> Added:
    table = _check_growing(kept)
    warnings: list[str] = []
    directory = _new_directory(kept.plan.workspace)
    try:
        part = _bring(path, directory, table, warnings.append if is_lenient else None)
        plan = _grow_plan(kept.plan, part)
        if value_kind(part) != value_kind(table):
            warnings.append(
                f"The new samples are {value_kind(part)}, the others {value_kind(table)}: they look different."
            )
        queued, run = await _place(store, seal, kept, plan)
    except BrokerError:
        # The server may have taken them all the same: what it may know of stays.
        raise
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return Added(queued, run, part.count, is_new_run=run != kept.run, warnings=tuple(warnings))


async def _as_the_server_has_it(store: Store, kept: WorkspaceStudy) -> WorkspaceStudy:
    """The kept study, without samples that an earlier call meant to add, and of which the server has never heard."""
    for run in (kept.run, kept.run - 1):
        key = run_key(kept.study, run)
        if await state_of(store, key) is not None:
            table, edition = kept.plan.samples, await edition_of(store, key)
            if table is None or edition >= table.edition:
                return kept
            parts = table.parts[: edition + 1]
            known = parts[0] if edition == 0 else _joined(parts)
            return replace(kept, plan=replace(kept.plan, samples=known))
    return kept


async def _place(store: Store, seal: Seal, kept: WorkspaceStudy, plan: Plan) -> tuple[Queued, int]:
    """Give the plan to the server; returns the study, and the run in which the new samples are."""
    if await state_of(store, kept.key) in UNFINISHED:
        # First where `restart` would look for it, then on the server.
        write_plan(kept.study, kept.run, plan)
        answer = await store.grow(kept.key, plan, seal, msgspec.json.encode(step_facts(plan)))
        if answer == "grown":
            return queued_study(kept.key, plan), kept.run
        write_plan(kept.study, kept.run, kept.plan)
        if answer not in ("ended", "gone"):
            raise _refusal(answer, kept.key)
    return await reopen_grown(store, seal, kept, plan), kept.run + 1


def _refusal(answer: str, study: str) -> UsageError:
    if answer == "passed":
        return StillRunningError(study)
    return UsageError(f"Others changed study '{study}' at the same time; nothing was added.", hint="Try it once more.")


def _check_growing(kept: WorkspaceStudy) -> SampleTable:
    table = kept.plan.samples
    if table is None:
        hint = "Add merlin.samples to the spec, and queue it."
        raise UsageError(f"Study '{kept.key}' has no samples, so none can be added.", hint=hint)
    if table.first_count == 1:
        # Beside it, theirs would lie in it; and `*/` in users' scripts means none of both.
        raise UsageError(
            f"Study '{kept.key}' began with one sample, which has its step's own directory: none fits beside it.",
            hint="Queue a new study with all samples.",
        )
    return table


def _new_directory(workspace: str) -> Path:
    """Where the table is kept, converted if it is text."""
    try:
        for number in itertools.count(1):
            directory = Path(workspace, INFO_DIR, f"added_{number}")
            try:
                directory.mkdir()
            except FileExistsError:
                continue
            return directory
    except OSError as error:
        raise WorkspaceError(f"'{workspace}' can't be written: {error.strerror}.") from error
    raise AssertionError


def _bring(path: str, directory: Path, table: SampleTable, warn: Callable[[str], None] | None) -> SampleTable:
    if not os.path.isfile(path):
        raise NotFoundError(f"There is no sample file '{path}'.", hint="Name a .npy, .csv or .tab file.")
    bring_samples(path, str(directory))
    return open_samples(directory / Path(path).name, table.columns, directory, warn)


def _grow_plan(plan: Plan, part: SampleTable) -> Plan:
    table = plan.samples
    assert table is not None
    grown = _joined((*(table.parts or (table,)), part))
    if grown.count > MAX_LISTED_PATHS and any(step.lists_paths for step in plan.steps):
        raise UsageError(
            f"With these there are {grown.count} samples, and a step lists all their paths: that is too long a list.",
            hint="Use '$(MERLIN_GLOB_PATH)' in the spec.",
        )
    return replace(plan, samples=grown, warnings=())


def _joined(parts: tuple[SampleTable, ...]) -> SampleTable:
    count = sum(part.count for part in parts)
    return SampleTable("parts", parts[-1].path, count, parts[0].columns, 0, 0, parts=parts)
