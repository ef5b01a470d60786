"""A trial of an allocation: is a job like its jobs taken? It is submitted such that it never runs, and cancelled."""

from __future__ import annotations

import anyio
import msgspec

from mrun.engine.alloc.jobs import JobPlace, write_job
from mrun.engine.errors import LauncherAwayError, LauncherError
from mrun.engine.store.allocs import AllocTerms
from mrun.launchers.job_calls import JobCalls
from mrun.launchers.schedulers import Job, RefusedError, Scheduler

#: The number of a job that is none of the allocation's.
TRIAL_NUMBER = 0
#: Nobody's Ctrl-C may come between submission and cancellation, unless they take longer than this.
_TRIAL_MOST_S = 90.0


def trial_job(terms: AllocTerms, place: JobPlace, scheduler: Scheduler) -> Job:
    """A job like those of the allocation, which waits until somebody releases it. Writes its script."""
    job = write_job(terms, place, TRIAL_NUMBER)
    return msgspec.structs.replace(job, extra=(*job.extra, *scheduler.held))


async def try_out(desk: JobCalls, job: Job, place: JobPlace) -> str:
    """Submit the trial job, and cancel it; its id.

    Raises:
        LauncherError: it was refused, with all that the scheduler said.
    """
    with anyio.move_on_after(_TRIAL_MOST_S, shield=True):
        try:
            submitted = await desk.submit(job, place.variables)
        except LauncherAwayError:
            # It may have been submitted all the same.
            found = await desk.find(job.name)
            await desk.cancel([found] if found else [])
            raise
        except RefusedError as error:
            hint = "Correct the words of the allocation, or ask the people who run the machine."
            raise LauncherError(error.message, hint=hint) from error
        await desk.cancel([submitted])
        return submitted
    message = f"The scheduler did not answer within {_TRIAL_MOST_S:g} s."
    raise LauncherAwayError(message, hint=f"Look for job '{job.name}', and cancel it.")
