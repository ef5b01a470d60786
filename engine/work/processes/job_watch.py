"""One scheduler's jobs of one worker: submitted one after another, and watched by one question for all of them.

Everything that is asked of the scheduler is asked by one task, in turn: it gets one call at a time, and nothing races.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping

import anyio
from anyio.abc import TaskGroup, TaskStatus

from mrun.engine.backoff import BackOff
from mrun.engine.errors import HandBackError, LauncherAwayError, LauncherError, MrunError
from mrun.engine.logging import log
from mrun.engine.work.processes.job import JobProcess, JobRecord, JobSample
from mrun.engine.work.wakeup import Wakeup
from mrun.launchers.find import launcher_named
from mrun.launchers.job_calls import JobCalls
from mrun.launchers.schedulers import End, EndKind, JobState, JobStatus, RefusedError

#: Between two looks, and two tries to submit: as long as something changes, and at most.
PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
#: So often in a row a scheduler says that it does not know a job, before it is believed: it may have restarted.
_UNKNOWN_LOOKS_MOST = 3
#: So often in a row a scheduler refuses a study's jobs in the same words, before the study is refused.
_REFUSALS_MOST = 3
#: A job that has not ended so long after it was cancelled is cancelled again.
_CANCEL_AGAIN_S = 10.0


class Jobs:
    """The batch jobs of one worker: a watch for each scheduler, as long as the worker beats."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._watches: dict[str, JobWatch] = {}
        self._tasks: TaskGroup | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Watch until it is cancelled. Jobs go on then."""
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            await anyio.sleep(math.inf)

    def start(self, files: JobSample, variables: Mapping[str, str]) -> JobProcess:
        """Await the job of a sample, if there is one, or submit one when it is its turn.

        Args:
            variables: those of the sample, beside the worker's own.

        Raises:
            LauncherError: there is no such scheduler.
        """
        watch = self._watch(files.sample.text.terms.started_by)
        process = JobProcess(files, variables, watch.title, watch.wanted.set)
        watch.add(process)
        return process

    def _watch(self, batch_type: str) -> JobWatch:
        if batch_type not in self._watches:
            scheduler = launcher_named(batch_type).scheduler
            if scheduler is None:
                raise LauncherError(f"'{batch_type}' takes no jobs.", hint="Leave 'mode: job' out.")
            assert self._tasks is not None
            watch = self._watches[batch_type] = JobWatch(JobCalls(scheduler, self._environment), scheduler.title)
            self._tasks.start_soon(watch.run)
        return self._watches[batch_type]


class JobWatch:
    """Submits jobs when it is their turn, and tells each of them how it ended."""

    def __init__(self, calls: JobCalls, title: str) -> None:
        self.wanted = Wakeup()
        self._calls, self.title = calls, title
        self._waiting: list[JobProcess] = []
        self._watched: list[JobProcess] = []
        self._looks, self._submits = (BackOff(PAUSE_S, LONGEST_PAUSE_S) for _ in range(2))
        #: What the scheduler does not do now, and for which the log says so.
        self._troubles: set[str] = set()
        #: Study → in which words its last job was refused, and how often in a row.
        self._refusals: dict[str, tuple[str, int]] = {}

    def add(self, process: JobProcess) -> None:
        """Await a sample's job, if it has one by now, or submit it when it is its turn."""
        record = process.files.record()
        if record is not None and record.job:
            self._begin_watching(process, record.job)
            log.info("job_found", scheduler=self.title, job=record.job, execution=process.name)
        else:
            process.may_have_job = record is not None
            self._waiting.append(process)
        self.wanted.set()

    async def run(self) -> None:
        """Watch until it is cancelled."""
        while True:
            await self.wanted.wait(self._pause_s())
            await self._cancel()
            if self._watched and self._looks.left_s == 0:
                await self._look()
            self._watched = [process for process in self._watched if not process.is_over]
            self._waiting = [process for process in self._waiting if not process.is_over]
            if self._submits.left_s == 0:
                await self._submit()

    def _pause_s(self) -> float:
        """Until something is to be done: a job that waits for others is looked at when they have ended."""
        pauses_s = [self._looks.left_s] if self._watched else []
        pauses_s += [self._submits.left_s] if self._next(Counter(self._steps())) else []
        return min(pauses_s, default=LONGEST_PAUSE_S)

    def _steps(self) -> list[tuple[str, int]]:
        return [process.step for process in self._watched if not process.is_over]

    def _next(self, under_way: Counter[tuple[str, int]]) -> JobProcess | None:
        """The first that waits for nobody."""
        for process in self._waiting:
            most = process.terms.throttle
            if not process.is_over and (not most or under_way[process.step] < most):
                return process
        return None

    # ------------------------------------------------------------------------------------------------- submitting

    async def _submit(self) -> None:
        """Submit those whose turn it is, until it is time to look again."""
        under_way = Counter(self._steps())
        while (process := self._next(under_way)) is not None:
            if self._watched and self._looks.left_s == 0:
                return
            if not await self._begin(process):
                self._submits.again(in_vain=True)
                return
            self._waiting.remove(process)
            under_way[process.step] += bool(process.job)

    async def _begin(self, process: JobProcess) -> bool:
        """Make a job of it, or find that it is one. False: not now."""
        process.is_in_flight = True
        try:
            job = await self._job_of(process)
        except LauncherAwayError as error:
            process.submitted("")
            self._log_trouble("submit", error)
            return False
        except RefusedError as error:
            process.fail(self._refused(process, error))
            return True
        except LauncherError as error:
            # There is no such program here, and there will be none for the next sample: the study is refused at once.
            process.fail(error)
            return True
        except (MrunError, OSError, ValueError, LookupError) as error:
            # A NUL in a name; a workspace that is gone.
            process.fail(HandBackError(_why(process, error)))
            return True
        self._troubles.discard("submit")
        self._refusals.pop(process.step[0], None)
        if job:
            self._begin_watching(process, job)
        return True

    def _refused(self, process: JobProcess, error: RefusedError) -> MrunError:
        """How a sample ends whose job was refused.

        The refusal may be meant for this sample alone, so the next ones are tried. Those that are refused in the same
        words go back without a word; and after some the study is refused. A hundred samples that wait for their turn
        are no reason to say it a hundred times.
        """
        study = process.step[0]
        words, count = self._refusals.get(study, ("", 0))
        if error.message != words:
            self._refusals[study] = error.message, 1
            return HandBackError(error.message)
        self._refusals[study] = words, count + 1
        return error if count + 1 >= _REFUSALS_MOST else HandBackError(error.message, is_left=True)

    async def _job_of(self, process: JobProcess) -> str:
        """Its job's id: of one that was submitted before, by whomever, or of a new one. Empty: it has ended."""
        files = process.files
        record = files.record()
        if record is not None and record.job:
            return record.job
        if record is not None:
            # Somebody was about to submit it.
            if files.left() is not None:
                process.conclude(End(EndKind.UNKNOWN))
                return ""
            if job := await self._calls.find(process.name):
                log.info("job_found", scheduler=self.title, job=job, execution=process.name)
                self._note_job(process, job)
                return job
        if process.is_cancel_asked:
            process.end_unsubmitted()
            return ""
        request, variables = process.request(files.make())
        # From here on there may be a job, whatever happens to this worker.
        files.note(JobRecord(process.name, self.title))
        try:
            job = await self._calls.submit(request, variables)
        except LauncherError as error:
            if not error.is_retryable:
                files.forget()
            raise
        self._note_job(process, job)
        log.debug("job_submitted", scheduler=self.title, job=job, execution=process.name)
        return job

    def _note_job(self, process: JobProcess, job: str) -> None:
        try:
            process.files.note(JobRecord(process.name, self.title, job))
        except OSError as error:
            # Whoever needs it finds it by its name.
            log.warning("job_not_noted", job=job, why=error.strerror)

    def _begin_watching(self, process: JobProcess, job: str) -> None:
        process.submitted(job)
        if self._watched:
            self._looks.soon()
        else:
            self._looks.again(in_vain=False)
        self._watched.append(process)

    # ------------------------------------------------------------------------------------------------- watching

    async def _look(self) -> None:
        """Ask for all jobs at once."""
        watched = [process for process in self._watched if not process.is_over]
        try:
            found = await self._calls.look([process.job for process in watched])
        except LauncherAwayError as error:
            self._log_trouble("look", error)
            self._looks.again(in_vain=True)
            return
        except LauncherError as error:
            # It will never answer on this machine: others may be luckier.
            for process in watched:
                process.fail(HandBackError(error.message, has_begun=process.has_run))
            return
        self._troubles.discard("look")
        has_news = [_note(process, found[process.job]) for process in watched]
        self._looks.again(in_vain=not any(has_news))

    async def _cancel(self) -> None:
        """Cancel those that are to be, and once more those that did not mind."""
        now = time.monotonic()
        asked = [one for one in self._watched if one.is_cancel_asked and not one.is_over]
        due = [one for one in asked if not one.cancelled_at or now - one.cancelled_at > _CANCEL_AGAIN_S]
        if not due:
            return
        self._looks.soon()
        try:
            await self._calls.cancel([process.job for process in due])
        except LauncherError as error:
            self._log_trouble("cancel", error)
            return
        self._troubles.discard("cancel")
        for process in due:
            process.cancelled_at = now

    def _log_trouble(self, what: str, error: LauncherError) -> None:
        """Once for each time of trouble."""
        if what not in self._troubles:
            self._troubles.add(what)
            log.warning("scheduler_refused", scheduler=self.title, to=what, why=error.message, does="tries again")


def _why(process: JobProcess, error: Exception) -> str:
    """Why a sample could not be submitted."""
    if isinstance(error, MrunError):
        return error.message
    what = f"{error.strerror} '{error.filename}'" if isinstance(error, OSError) else str(error)
    return f"Sample {process.files.sample.number} could not be submitted: {what}."


def _note(process: JobProcess, status: JobStatus) -> bool:
    """What a look tells of one job; whether it is news."""
    if status.state is JobState.ENDED:
        process.conclude(status.end or End(EndKind.UNKNOWN))
        return True
    if status.state is JobState.UNKNOWN and not status.word:
        process.unknown_looks += 1
        if process.unknown_looks >= _UNKNOWN_LOOKS_MOST or process.files.left() is not None:
            process.conclude(End(EndKind.UNKNOWN, why=status.why))
        return True
    process.unknown_looks = 0
    is_new = status.state is JobState.RUNNING and not process.has_run
    process.has_run |= is_new
    return is_new
