"""What is asked of a scheduler about jobs, and awaited: submit one, find it, look at many, cancel them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mrun.launchers.calls import CALL_TIMEOUT_S, call
from mrun.launchers.schedulers import Job, JobState, JobStatus, Scheduler

#: Jobs in one question: an argument list has its limits, and a controller is asked in small bits.
_MOST_ASKED = 500


class JobCalls:
    """One scheduler, for one user. Every method is one call or a few, each with a deadline."""

    def __init__(
        self, scheduler: Scheduler, environment: Mapping[str, str], *, timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        self._scheduler = scheduler
        self._environment = environment
        self._timeout_s = timeout_s

    async def submit(self, job: Job, variables: Mapping[str, str] | None = None) -> str:
        """Submit a job, with these variables in addition; its id.

        Raises:
            LauncherAwayError: it may have been submitted all the same: look for its name before trying again.
            LauncherError: refused, with all that the scheduler said.
        """
        environment = self._scheduler.job_environment({**self._environment, **(variables or {})})
        words = self._scheduler.submit_command(job)
        return self._scheduler.read_submitted(await call(words, environment, timeout_s=self._timeout_s))

    async def find(self, name: str) -> str:
        """The id of the newest job of that name; empty if the scheduler knows none. Raises as `look`."""
        answer = await call(self._scheduler.find_command(name), self._environment, timeout_s=self._timeout_s)
        return (self._scheduler.read_found(answer, name) or [""])[-1]

    async def look(self, jobs: Sequence[str]) -> dict[str, JobStatus]:
        """The status of each of these jobs; UNKNOWN for those that nobody remembers.

        Raises:
            LauncherAwayError: nothing is known now.
            LauncherError: nothing will be.
        """
        found: dict[str, JobStatus] = {}
        for query in self._scheduler.queries:
            missing = [job for job in jobs if job not in found]
            for first in range(0, len(missing), _MOST_ASKED):
                asked = missing[first : first + _MOST_ASKED]
                answer = await call(query.command(asked), self._environment, timeout_s=self._timeout_s)
                found |= {status.job: status for status in query.read(answer)}
        return {job: found.get(job) or JobStatus(job, JobState.UNKNOWN, why="the scheduler forgot it") for job in jobs}

    async def cancel(self, jobs: Sequence[str]) -> None:
        """Ask for the end of jobs; those that have ended are no error. Raises as `look`."""
        for first in range(0, len(jobs), _MOST_ASKED):
            words = self._scheduler.cancel_command(jobs[first : first + _MOST_ASKED])
            self._scheduler.read_cancelled(await call(words, self._environment, timeout_s=self._timeout_s))
