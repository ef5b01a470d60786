"""The keeper of allocations: looks at the queues and at the jobs, submits and cancels. The story of the room.

What is about to be submitted is written down first, on the server, in a state that only one keeper can make. Who dies
between that and the scheduler's answer leaves a job of which only the name is known: whoever follows looks for it by
that name, and until it is sure that there is none, it counts as one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import anyio
import msgspec

from mrun.engine.alloc import rules
from mrun.engine.alloc.jobs import JobPlace, printed_tail, write_job
from mrun.engine.alloc.observed import ObservedJob, after_look, has_ended
from mrun.engine.errors import LauncherAwayError, LauncherError, MrunError, WorkspaceError
from mrun.engine.logging import log
from mrun.engine.store.allocs import FORCE, PAUSE, REMOVE, RESUME, AllocJob, Allocs, AllocState, KeptAlloc
from mrun.engine.store.backlog import Backlog, look_at_backlog
from mrun.engine.store.store import Store
from mrun.engine.store.views import Views, WorkerStatus
from mrun.launchers.job_calls import JobCalls
from mrun.launchers.schedulers import JobStatus

#: A submission under way is not interrupted, unless it takes longer than any call of a scheduler may.
_SUBMIT_MOST_S = 45.0


class Maintained(msgspec.Struct, frozen=True):
    """How an allocation is after somebody saw to it. No backlog: its scheduler did not answer, or it was removed."""

    kept: KeptAlloc
    backlog: Backlog | None = None
    is_removed: bool = False

    @property
    def is_done(self) -> bool:
        """Nothing will wait for its jobs any more, and there are none."""
        is_unfinished = self.backlog is None or self.backlog.is_unfinished
        return self.is_removed or (not is_unfinished and not self.kept.state.jobs)


class Keeper:
    """One process that keeps allocations.

    Args:
        name: of this keeper; never used again.
        desk_of: the scheduler of a kind. Raises LauncherError if there is none.
        keeps_s: for so long an allocation is this keeper's, after each look at it.
    """

    def __init__(
        self, name: str, allocs: Allocs, store: Store, views: Views, place: JobPlace,
        *, desk_of: Callable[[str], JobCalls], keeps_s: float,
    ) -> None:  # fmt: skip
        self._name = name
        self._allocs, self._store, self._views = allocs, store, views
        self._place, self._desk_of, self._keeps_s = place, desk_of, keeps_s

    async def maintain(self, name: str) -> Maintained | None:
        """See to an allocation once. None: another keeper has it. Safe to cancel.

        Raises:
            NotFoundError, SealError: as `Allocs.look`.
            LauncherError: it is to be removed, and the scheduler does not cancel its jobs.
        """
        kept = await self._allocs.keep(name, self._name, self._keeps_s)
        if kept is None:
            return None
        try:
            if kept.request in (REMOVE, FORCE):
                return await self._remove(kept)
            return await self._maintain(kept)
        except _LostError:
            log.info("alloc_lost", alloc=name, why="another keeper has it now")
            return None

    async def give_up(self, name: str) -> None:
        """Let another keeper have it at once."""
        await self._allocs.keep(name, self._name, 0)

    async def _maintain(self, kept: KeptAlloc) -> Maintained:
        if kept.request == RESUME:
            kept = await self._write(kept, rules.without_failures(kept.state), answers=RESUME)
        workers = await self._views.workers()
        try:
            kept = await self._look(kept, workers)
        except LauncherError as error:
            return Maintained(await self._note_error(kept, error))
        if kept.state.error and not kept.state.failures:
            # The scheduler answers again.
            kept = await self._write(kept, msgspec.structs.replace(kept.state, error=""))
        terms, state = kept.terms, kept.state
        fits = functools.partial(rules.fits, terms, state)
        backlog = await look_at_backlog(self._store, terms.queues, workers, kept.now_ms, fits)
        kept = await self._write(kept, rules.with_idleness(terms, state, backlog, kept.now_ms))
        if rules.is_superfluous(terms, kept.state, backlog, kept.now_ms):
            kept = await self._cancel_waiting(kept)
        elif kept.request != PAUSE:
            for _ in range(rules.jobs_wanted(terms, kept.state, backlog, kept.now_ms)):
                failures = kept.state.failures
                kept = await self._submit(kept)
                if kept.state.failures > failures:
                    break
        return Maintained(kept, backlog)

    # ------------------------------------------------------------------------------------------------- looking

    async def _look(self, kept: KeptAlloc, workers: Sequence[WorkerStatus]) -> KeptAlloc:
        """The allocation, with its jobs as the scheduler and their workers tell. Raises LauncherError, and then nothing
        is known.
        """
        if not kept.state.jobs:
            return kept
        desk = self._desk_of(kept.terms.kind)
        jobs = [found for job in kept.state.jobs if (found := await self._found(desk, kept, job))]
        statuses = await desk.look([job.job for job in jobs if job.job])
        seen = [self._seen(kept, job, statuses.get(job.job), workers) for job in jobs]
        return await self._write(kept, after_look(kept.state, seen, kept.now_ms))

    async def _found(self, desk: JobCalls, kept: KeptAlloc, job: AllocJob) -> AllocJob | None:
        """A job with its id; one of which nobody heard is looked for by its name. None: there is none of that name."""
        if job.job:
            return job
        name = kept.terms.job_name(job.number)
        found = await desk.find(name)
        if found:
            log.info("alloc_job_found", alloc=kept.terms.name, name=name, job=found)
            return msgspec.structs.replace(job, job=found)
        if kept.now_ms < job.asked_at_ms + 1000 * rules.SUBMIT_SETTLES_S:
            return job
        log.info("alloc_job_missing", alloc=kept.terms.name, name=name, why="it was never submitted")
        return None

    def _seen(
        self, kept: KeptAlloc, job: AllocJob, status: JobStatus | None, workers: Sequence[WorkerStatus]
    ) -> ObservedJob:
        terms = kept.terms
        mine = tuple(worker for worker in workers if worker.name == terms.job_name(job.number))
        if not has_ended(job, status, kept.now_ms):
            return ObservedJob(job, status, mine)
        end = status.end if status else None
        how = {"end": "unknown" if end is None else end.kind.value, "code": end.code if end else -1}
        log.info("alloc_job_ended", alloc=terms.name, job=job.job, **how)
        return ObservedJob(job, status, mine, printed_tail(terms, self._place, job.number))

    async def _note_error(self, kept: KeptAlloc, error: LauncherError) -> KeptAlloc:
        """Nothing is known of the jobs now: nothing is submitted, and the error is shown."""
        if kept.state.error != error.message:
            log.warning("scheduler_away", alloc=kept.terms.name, why=error.message, hint=error.hint)
        return await self._write(kept, msgspec.structs.replace(kept.state, error=error.message))

    # ------------------------------------------------------------------------------------------------- doing

    async def _submit(self, kept: KeptAlloc) -> KeptAlloc:
        """One more job. That it will be submitted is written first."""
        number = kept.state.last_number + 1
        asked = AllocJob(number, kept.now_ms)
        jobs = (*kept.state.jobs, asked)
        kept = await self._write(kept, msgspec.structs.replace(kept.state, last_number=number, jobs=jobs))
        with anyio.move_on_after(_SUBMIT_MOST_S, shield=True):
            return await self._write(kept, await self._submitted(kept, asked))
        # Whoever looks next finds it by its name, if it is there.
        return kept

    async def _submitted(self, kept: KeptAlloc, asked: AllocJob) -> AllocState:
        """The state after a job was submitted, or was not."""
        terms, state = kept.terms, kept.state
        others = tuple(job for job in state.jobs if job.number != asked.number)
        try:
            desk = self._desk_of(terms.kind)
            job = await desk.submit(write_job(terms, self._place, asked.number), self._place.variables)
        except (LauncherError, WorkspaceError) as error:
            is_passing = isinstance(error, LauncherAwayError)
            # It may have been submitted all the same.
            state = msgspec.structs.replace(state, jobs=state.jobs if is_passing else others)
            return rules.with_failure(state, error.message, kept.now_ms, is_passing=is_passing)
        log.info("alloc_job_submitted", alloc=terms.name, job=job, name=terms.job_name(asked.number))
        return msgspec.structs.replace(state, jobs=(*others, msgspec.structs.replace(asked, job=job)))

    async def _cancel_waiting(self, kept: KeptAlloc) -> KeptAlloc:
        """Nothing waits for the jobs that wait: cancel them. Those that run leave by themselves."""
        waiting = [job for job in kept.state.jobs if job.job and not job.is_running]
        if not waiting:
            return kept
        try:
            return await self._cancel(kept, waiting)
        except LauncherError as error:
            return await self._note_error(kept, error)

    async def _cancel(self, kept: KeptAlloc, jobs: Sequence[AllocJob]) -> KeptAlloc:
        """Cancel jobs, of which it is noted first that it was us. Raises LauncherError."""
        numbers = {job.number for job in jobs}
        marked = tuple(
            msgspec.structs.replace(job, is_cancelled=job.is_cancelled or job.number in numbers)
            for job in kept.state.jobs
        )
        kept = await self._write(kept, msgspec.structs.replace(kept.state, jobs=marked))
        ids = [job.job for job in jobs]
        await self._desk_of(kept.terms.kind).cancel(ids)
        log.info("alloc_jobs_cancelled", alloc=kept.terms.name, jobs=ids)
        return kept

    async def _remove(self, kept: KeptAlloc) -> Maintained:
        """Cancel the jobs that wait, with FORCE those that run, too; then forget the allocation."""
        kept = await self._look(kept, await self._views.workers())
        jobs = [job for job in kept.state.jobs if job.job and (not job.is_running or kept.request == FORCE)]
        if jobs:
            kept = await self._cancel(kept, jobs)
        if any(not job.job for job in kept.state.jobs):
            # There may be one more: it is looked for until it is found, or there is none.
            return Maintained(kept)
        if not await self._allocs.forget(kept, self._name):
            raise _LostError
        log.info("alloc_removed", alloc=kept.terms.name, cancelled=len(jobs))
        return Maintained(kept, is_removed=True)

    async def _write(self, kept: KeptAlloc, state: AllocState, *, answers: str = "") -> KeptAlloc:
        """Write a state down, if it is another one."""
        if state == kept.state and not answers:
            return kept
        written = await self._allocs.note(kept, self._name, state, answers=answers)
        if written is None:
            raise _LostError
        if state.failures > kept.state.failures:
            pause_s = round((state.retry_at_ms - kept.now_ms) / 1000)
            log.warning("alloc_failed", alloc=kept.terms.name, why=state.error, retry_in_s=pause_s)
        if state.is_paused and not kept.state.is_paused:
            mended_by = f"mrun alloc resume {kept.terms.name}"
            log.warning("alloc_paused", alloc=kept.terms.name, failures=state.failures, mended_by=mended_by)
        return written


class _LostError(MrunError):
    """Another keeper has the allocation now: whatever this one was about to do is left undone."""

    def __init__(self) -> None:
        super().__init__("Another keeper has the allocation.")
