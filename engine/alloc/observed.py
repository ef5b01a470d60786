"""What was seen of the jobs of an allocation → its new state. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from mrun.engine.alloc.rules import SUBMIT_SETTLES_S, is_failed, with_failure, without_failures
from mrun.engine.store.allocs import AllocJob, AllocState
from mrun.engine.store.views import WorkerStatus
from mrun.launchers.schedulers import JobState, JobStatus


class ObservedJob(msgspec.Struct, frozen=True):
    """A job, what the scheduler says of it (None: its id is not known), and its workers that live."""

    job: AllocJob
    status: JobStatus | None = None
    workers: tuple[WorkerStatus, ...] = ()
    #: What it printed last.
    printed: str = ""

    @property
    def failure(self) -> str:
        """Why it failed, in a sentence; empty: it has not."""
        end = self.status.end if self.status else None
        if end is None or not is_failed(self.job, end):
            return ""
        how = f"exit code {end.code}" if end.code >= 0 else end.why or end.kind.value
        printed = f" It printed last: {self.printed}" if self.printed else ""
        return f"Job {self.job.job} ended with {how}.{printed}"

    @property
    def is_good(self) -> bool:
        """Whether its end shows that all is well."""
        end = self.status.end if self.status else None
        return not self.failure and (self.job.has_worked or (end is not None and end.code == 0))


def has_ended(job: AllocJob, status: JobStatus | None, now_ms: int) -> bool:
    """Whether a job will never run again; so also if its scheduler has forgotten it, and it is not brand new."""
    if status is None:
        return False
    is_old = now_ms > job.asked_at_ms + 1000 * SUBMIT_SETTLES_S
    is_forgotten = status.state is JobState.UNKNOWN and not status.word
    return status.state is JobState.ENDED or (is_forgotten and is_old)


def after_look(state: AllocState, seen: Iterable[ObservedJob], now_ms: int) -> AllocState:
    """The state after a look at all of its jobs. Several that failed meanwhile count as one failure."""
    lasting: list[AllocJob] = []
    failures: list[str] = []
    for one in seen:
        if one.workers:
            slots = max(state.slots, sum(worker.slots for worker in one.workers))
            resources = one.workers[0].resources
            # Its number of failures stays: the job has not come to a good end yet.
            state = msgspec.structs.replace(state, slots=slots, resources=resources, error="")
        if not has_ended(one.job, one.status, now_ms):
            lasting.append(_lasting(one))
            continue
        state = msgspec.structs.replace(state, ended=state.ended + 1)
        if one.failure:
            failures.append(one.failure)
        elif one.is_good and not failures:
            state = without_failures(state)
    state = msgspec.structs.replace(state, jobs=tuple(lasting))
    return with_failure(state, failures[-1], now_ms) if failures else state


def _lasting(seen: ObservedJob) -> AllocJob:
    """A job that has not ended, with what was seen. One that ran does not wait again."""
    is_running = seen.job.is_running or (seen.status is not None and seen.status.state is JobState.RUNNING)
    has_worked = seen.job.has_worked or bool(seen.workers)
    return msgspec.structs.replace(seen.job, is_running=is_running, has_worked=has_worked)
