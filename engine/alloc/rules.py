"""The rules of an allocation: how many jobs it wants, what fits them, and how it backs off. Pure."""

from __future__ import annotations

import msgspec

from mrun.engine.backoff import pause_after
from mrun.engine.resources import CPUS, GPUS, JOBS, SLOTS, Told, read_resources
from mrun.engine.store.allocs import AllocJob, AllocState, AllocTerms
from mrun.engine.store.backlog import Backlog, ClassNeeds
from mrun.launchers.schedulers import End, EndKind

#: After a failure nothing is submitted for so long: it doubles from the first to the last.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 600.0
#: So many failures in a row pause an allocation, until somebody says that it may go on.
FAILURES_MOST = 5
#: A worker claims so long after its job has begun, at the latest. Samples that need more of the walltime than is left
#: then do not fit.
START_S = 60.0
#: So long after a submission of which nothing was heard, a job of its name is there, or never will be.
SUBMIT_SETTLES_S = 60.0

#: Ends that say nothing against the job.
_HARMLESS = (EndKind.TIMED_OUT, EndKind.CANCELLED, EndKind.PREEMPTED, EndKind.NODE_FAILED)


def jobs_wanted(terms: AllocTerms, state: AllocState, backlog: Backlog, now_ms: int) -> int:
    """How many more jobs to submit now.

    Samples for which nobody is there are those that are ready, less the slots of jobs that have not worked yet;
    `min_backlog` of them are worth a job, up to `max_jobs`. How many slots a job has is told by the user, or by the
    first that works: until then, one job is enough.
    """
    if state.is_paused or now_ms < state.retry_at_ms:
        return 0
    coming = sum(not job.has_worked for job in state.jobs)
    room = terms.max_jobs - len(state.jobs)
    slots = slots_of_a_job(terms, state)
    if not slots:
        return min(1, room) if not coming and backlog.samples >= terms.min_backlog else 0
    unserved = backlog.samples - slots * coming
    # Retries and the like that nobody sees to are few, and wait for ever without a job.
    least = 1 if backlog.is_stranded else terms.min_backlog
    return max(0, min(room, (unserved - least) // slots + 1))


def slots_of_a_job(terms: AllocTerms, state: AllocState) -> int:
    """Samples that run in one job at a time; 0: not known yet."""
    return terms.nodes * (terms.slots or terms.cores) or state.slots


def fits(terms: AllocTerms, state: AllocState, needs: ClassNeeds) -> bool:
    """Whether samples of a class could run in such a job; also if it is not known that they could not."""
    if needs.walltime_s and needs.walltime_s + START_S > terms.walltime_s:
        return False
    told, found = _told(terms.resources), _told(state.resources)
    # A worker that was seen and tells of no GPU has none.
    seen_gpus = (found.gpus or 0) if state.resources else None
    gpus = next((amount for amount in (told.gpus, terms.gpus or None, seen_gpus) if amount is not None), None)
    # Without --resources, what needs more CPUs than there are takes them all.
    has = {SLOTS: 1, CPUS: told.cpus, GPUS: gpus, JOBS: 0, **dict(told.named)}
    has_enough = (_is_enough(has.get(name, 0), amount) for name, amount in needs.amounts.items())
    return all(has_enough)


def submits_the_same(one: AllocTerms, other: AllocTerms) -> bool:
    """Whether two allocations submit the same jobs for the same queues; they may want another number of them."""
    return _as_jobs(one) == _as_jobs(other)


def _as_jobs(terms: AllocTerms) -> AllocTerms:
    """The terms with what says nothing of a job left out."""
    queues = tuple(sorted(terms.queues))
    return msgspec.structs.replace(terms, name="", mark="", queues=queues, max_jobs=0, min_backlog=0, idle_exit_s=0.0)


def _told(text: str) -> Told:
    return read_resources(text) if text else Told()


def _is_enough(has: int | None, amount: int) -> bool:
    return has is None or has >= amount


def with_idleness(terms: AllocTerms, state: AllocState, backlog: Backlog, now_ms: int) -> AllocState:
    """The state that says since when nothing waits for its jobs."""
    since_ms = 0 if backlog.samples else state.idle_since_ms or now_ms
    return msgspec.structs.replace(state, idle_since_ms=since_ms)


def is_superfluous(terms: AllocTerms, state: AllocState, backlog: Backlog, now_ms: int) -> bool:
    """Whether jobs that wait are to be cancelled: nothing has waited for them for so long, or will."""
    is_idle = bool(state.idle_since_ms) and now_ms >= state.idle_since_ms + 1000 * terms.idle_exit_s
    return not backlog.is_unfinished or (not backlog.samples and is_idle)


def is_failed(job: AllocJob, end: End | None) -> bool:
    """Whether a job that has ended says that the next one would fail, too."""
    if job.is_cancelled or end is None or end.kind is EndKind.UNKNOWN:
        return False
    if end.kind is EndKind.EXITED:
        return end.code != 0
    return not (job.has_worked and end.kind in _HARMLESS) and end.kind is not EndKind.CANCELLED


def with_failure(state: AllocState, why: str, now_ms: int, *, is_passing: bool = False) -> AllocState:
    """The state after a failure: later, and after too many not before somebody says so.

    Args:
        is_passing: it may heal by itself, so that the allocation is not paused.
    """
    failures = state.failures + 1
    pause_s = pause_after(failures, FIRST_PAUSE_S, LONGEST_PAUSE_S)
    return msgspec.structs.replace(
        state,
        failures=failures,
        error=why,
        retry_at_ms=now_ms + round(1000 * pause_s),
        is_paused=failures >= FAILURES_MOST and not is_passing,
    )


def without_failures(state: AllocState) -> AllocState:
    """The state after what shows that all is well, or after somebody has mended it."""
    return msgspec.structs.replace(state, failures=0, error="", retry_at_ms=0, is_paused=False)
