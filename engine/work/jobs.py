"""All batch jobs of one worker (`mode: job`): a watch for each scheduler, as long as the worker beats."""

from __future__ import annotations

import math
from collections.abc import Mapping

import anyio
from anyio.abc import TaskGroup, TaskStatus

from mrun.engine.errors import LauncherError
from mrun.engine.work.files import Ready
from mrun.engine.work.job_files import JobFiles
from mrun.engine.work.job_process import JobProcess
from mrun.engine.work.job_watch import JobWatch
from mrun.launchers.desk import JobDesk
from mrun.launchers.find import launcher_named
from mrun.launchers.schedulers import Scheduler


class Jobs:
    """Starts what a slot then awaits."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.files = JobFiles()
        self._environment = environment
        self._watches: dict[str, tuple[JobWatch, Scheduler]] = {}
        self._tasks: TaskGroup | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Watch until it is cancelled. Jobs go on then."""
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            await anyio.sleep(math.inf)

    def start(self, ready: Ready, variables: Mapping[str, str]) -> JobProcess:
        """Await the job of a sample, if there is one, or submit one when it is its turn.

        Args:
            variables: those of the sample, beside the worker's own.

        Raises:
            LauncherError: there is no such scheduler.
        """
        watch, scheduler = self._watch(ready.instance.text.terms.started_by)
        process = JobProcess(ready, self.files, variables, scheduler.title, watch.wanted)
        watch.add(process)
        return process

    def _watch(self, batch_type: str) -> tuple[JobWatch, Scheduler]:
        if batch_type not in self._watches:
            scheduler = launcher_named(batch_type).scheduler
            if scheduler is None:
                raise LauncherError(f"'{batch_type}' takes no jobs.", hint="Leave 'mode: job' out.")
            assert self._tasks is not None
            watch = JobWatch(JobDesk(scheduler, self._environment), scheduler.title)
            self._watches[batch_type] = watch, scheduler
            self._tasks.start_soon(watch.run)
        return self._watches[batch_type]
