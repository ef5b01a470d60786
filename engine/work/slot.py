"""A slot: runs the samples of one claim, in order."""

from __future__ import annotations

import contextlib
import logging
import signal
import time

import anyio
import msgspec

from mrun.engine.errors import HandBackError, MrunError
from mrun.engine.logging import log
from mrun.engine.records import Claim, SampleState
from mrun.engine.resources import CPUS
from mrun.engine.work.executor import Executor
from mrun.engine.work.outcomes import CANCELLED, Exit, Outcome, judge
from mrun.engine.work.run import ClaimRun, Ending, RunState, SampleRun
from mrun.engine.work.state import WorkerState
from mrun.engine.work.studies import Studies, WorkedStudy
from mrun.engine.workspace.journal import Claimed

#: Between TERM and KILL, for a sample whose walltime is over.
GRACE_S = 10.0
#: A sample that runs so long gives the rest of its claim to other slots.
SLOW_S = 2.0
#: A claim that lasts so long gives back the rest, too, though none of its samples was that slow: its bite was to last a
#: second, so they take longer than the pace says. With an explicit `chunk` it was to last up to a minute.
LONG_CLAIM_S, LONG_CHUNK_S = 4.0, 90.0
#: So many samples in a row that could not be started: the node, or the study, is not fit for this worker.
FAILED_STARTS_MOST = 3
#: Of a study's failed samples so many are logged where everybody sees them; the others only for who debugs.
FAILURES_LOGGED_MOST = 10
#: With more slots the next sample is prepared in its turn: no core waits for one slot, and each sample that is prepared
#: holds some descriptors, of which a process often has only 1,024.
_AHEAD_SLOTS_MOST = 32
#: Samples that take so long at most are started behind the one that runs, where that can be: so no core waits for the
#: engine between two of them. With longer ones nobody would notice, and they are not begun before somebody looks.
_FOLLOW_PACE_MS = 50.0
#: While a sample runs, how often its slot looks whether somebody wants it ended by force.
_LOOK_S = 1.0
#: The same when its first process has ended, and others of its group have not.
_LOOK_FOR_REST_S = 0.02
#: How long a guard that is busy may take to reap what was killed.
_REAPED_WITHIN_S = 1.0


class Slot:
    """Runs claims. One object serves all slots of a worker: what differs is in the claim."""

    def __init__(self, state: WorkerState, studies: Studies, executor: Executor) -> None:
        self._state, self._studies, self._executor = state, studies, executor
        self._squeezed: set[tuple[str, str]] = set()
        # Asked once: a line that nobody reads would be put together for each sample.
        self._is_debugging = bool(log.is_enabled_for(logging.DEBUG))
        self._is_preparing_ahead = state.options.inventory.slots <= _AHEAD_SLOTS_MOST

    async def run(self, claim_run: ClaimRun) -> None:
        """Run a claim to its end, or as far as it may go. Never raises for what a sample or its study does."""
        claim = claim_run.claim
        try:
            study = await self._studies.get(claim.study, claim.edition)
            if study.samples is not None and study.text(claim.node).step.uses_samples:
                # Others may change it while we run: then nothing more is read from it.
                study.samples.verify()
            self._journal(study, claim)
            self._log_squeezed(study, claim)
            while claim_run.at < claim_run.limit and not claim_run.is_lost:
                if not await self._run_sample(study, claim_run):
                    break
        except MrunError as error:
            self._refuse(claim.study, f"{error.message} {error.hint}".strip())
        finally:
            claim_run.close()
            self._state.settle_wanted.set()
            self._state.slot_freed.set()

    def _log_squeezed(self, study: WorkedStudy, claim: Claim) -> None:
        """Say once of a step that it has fewer CPUs than it asks for: it has all that there are, and runs alone."""
        step, asked = study.text(claim.node).step.name, study.text(claim.node).terms.demand.cpus
        has = claim.takes.get(CPUS, asked)
        if has < asked and (study.study, step) not in self._squeezed:
            self._squeezed.add((study.study, step))
            log.info("step_squeezed", study=study.study, step=step, asks_for_cpus=asked, gets_cpus=has, runs="alone")

    async def _run_sample(self, study: WorkedStudy, claim_run: ClaimRun) -> bool:
        """Run the sample at `at`. False: the claim ends before it."""
        try:
            claim_run.current = self._started(study, claim_run)
        except HandBackError as error:
            return self._hand_back(study, claim_run, error)
        state = RunState.LEFT
        try:
            self._prepare_next(study, claim_run)
            outcome_and_end = await self._outcome(study, claim_run)
            if outcome_and_end is not None:
                state = RunState.ENDED
        except HandBackError as error:
            return self._hand_back(study, claim_run, error)
        finally:
            claim_run.current.close(state)
            claim_run.current = None
        study.failed_starts = 0
        if claim_run.ending is Ending.LOST:
            return False
        if outcome_and_end is None:
            claim_run.give_up(is_started=True)
            return False
        self._note(study, claim_run, *outcome_and_end)
        return True

    def _started(self, study: WorkedStudy, claim_run: ClaimRun) -> SampleRun:
        """The sample at `at`, which may have been started already."""
        run = claim_run.take_next() or self._executor.prepare(study, claim_run.claim, claim_run.at, claim_run.grant)
        if run.state is RunState.WAITING:
            self._executor.start(run)
        return run

    async def _outcome(self, study: WorkedStudy, claim_run: ClaimRun) -> tuple[Outcome, Exit] | None:
        """Await the end of the sample that runs, and keep what it left. None: it goes back, to be resumed."""
        assert claim_run.current is not None
        terms = study.text(claim_run.claim.node).terms
        # A job's walltime is its scheduler's to keep: it begins with the job, and not with its time in the queue.
        end = await self._await_end(claim_run, None if terms.job else terms.walltime_s)
        if end.is_timeout or claim_run.ending:
            await _end_rest(claim_run)
        ending = claim_run.ending
        is_finished = ending is None and end.code == 0 and not end.is_timeout
        await claim_run.current.keep(end, is_finished=is_finished, is_lost=ending is Ending.LOST)
        if ending in (Ending.LOST, Ending.DRAINED):
            return None
        return CANCELLED if ending is Ending.CANCELLED else judge(end, terms, claim_run.claim.attempt), end

    def _note(self, study: WorkedStudy, claim_run: ClaimRun, outcome: Outcome, end: Exit) -> None:
        self._log_end(study, claim_run, end, outcome)
        claim_run.note(outcome, end)
        if claim_run.unsettled_s > _LOOK_S:
            self._state.settle_wanted.set()
        # What is settled of it first gives the server the pace, so that the next bites are shorter.
        chunk = study.text(claim_run.claim.node).terms.chunk
        if claim_run.age_s > (LONG_CLAIM_S if chunk is None else LONG_CHUNK_S):
            claim_run.stop_after_current()

    def _prepare_next(self, study: WorkedStudy, claim_run: ClaimRun) -> None:
        """While a sample runs: at its end the next one only has to be started. What fails now fails again then."""
        claim, at = claim_run.claim, claim_run.at + 1
        if not self._is_preparing_ahead or at >= claim_run.limit:
            return
        assert claim_run.current is not None
        with contextlib.suppress(MrunError):
            run = self._executor.prepare(study, claim, at, claim_run.grant)
            # To start one early says that it began. So it is not done long before that is true, nor for a sample of
            # which its files have to say whether it began before.
            if 0 < claim.pace_ms <= _FOLLOW_PACE_MS and not run.files.sample.may_have_started:
                self._executor.start_behind(claim_run.current, run)
            claim_run.next = run

    def _log_end(self, study: WorkedStudy, claim_run: ClaimRun, end: Exit, outcome: Outcome) -> None:
        is_told = outcome.state is SampleState.FAILED and study.failures_logged < FAILURES_LOGGED_MOST
        if not is_told and not self._is_debugging:
            return
        text = study.text(claim_run.claim.node)
        facts = {
            "study": study.study,
            "instance": text.instance_name,
            "sample": claim_run.at,
            "state": outcome.state.value,
        }
        if not is_told:
            log.debug("sample_ended", **facts, code=end.code)
            return
        study.failures_logged += 1
        log.info("sample_failed", **facts, why=outcome.reason, directory=text.sample_directory(claim_run.at))

    async def _await_end(self, claim_run: ClaimRun, walltime_s: float | None) -> Exit:
        """Wait for the process; on the way share the rest of the claim, keep the walltime, and kill what won't end."""
        assert claim_run.current is not None
        process = claim_run.current.process
        is_timeout = False
        if (end := await process.wait_within(min(SLOW_S, walltime_s or SLOW_S))) is not None:
            return end
        if claim_run.limit > claim_run.at + 1:
            claim_run.slow_ms = round(1000 * process.elapsed_s)
            claim_run.stop_after_current()
            self._state.settle_wanted.set()
        while True:
            left_s = _LOOK_S
            if walltime_s is not None and not is_timeout:
                left_s = min(left_s, walltime_s - process.elapsed_s)
                if left_s <= 0:
                    is_timeout = True
                    process.signal(signal.SIGTERM)
                    kill_at = time.monotonic() + GRACE_S
                    # What was asked to end sooner ends sooner.
                    claim_run.kill_at = min(claim_run.kill_at, kill_at) if claim_run.ending else kill_at
            if (is_timeout or claim_run.ending) and time.monotonic() >= claim_run.kill_at:
                process.signal(signal.SIGKILL)
            if (end := await process.wait_within(max(0.01, left_s))) is not None:
                return msgspec.structs.replace(end, is_timeout=is_timeout)

    def _hand_back(self, study: WorkedStudy, claim_run: ClaimRun, error: HandBackError) -> bool:
        """The sample goes back in the same attempt. After some in a row this worker wants no more of the study."""
        claim_run.give_up(is_started=error.has_begun)
        study.failed_starts += error.is_counted
        if not error.is_left:
            log.warning("sample_not_started", study=study.study, sample=claim_run.at, why=error.message)
        if study.failed_starts >= FAILED_STARTS_MOST:
            self._refuse(study.study, error.message)
        return False

    def _refuse(self, study: str, why: str) -> None:
        if study not in self._state.refused:
            self._state.refused[study] = why
            log.error("study_refused", study=study, why=why, hint="Other workers may still run it.")

    def _journal(self, study: WorkedStudy, claim: Claim) -> None:
        with contextlib.suppress(OSError):
            # The server has the account, and the journal is the second one. On a full disk the sample itself fails.
            study.journal.write(Claimed(claim.number, claim.node, claim.lo, claim.hi, claim.attempt, time.time()))


async def _end_rest(claim_run: ClaimRun) -> None:
    """SIGTERM ends a shell before the program that it waits for: that has as long, and is not left behind."""
    assert claim_run.current is not None
    process = claim_run.current.process
    # Read anew each time: meanwhile somebody may ask for a sooner end.
    while process.has_rest and time.monotonic() < claim_run.kill_at:  # noqa: ASYNC110 - no event says so
        await anyio.sleep(_LOOK_FOR_REST_S)
    process.end_rest()
    # Dead, and not yet reaped by whoever inherited it, it would be taken for somebody who still writes.
    until = time.monotonic() + _REAPED_WITHIN_S
    while process.has_rest and time.monotonic() < until:  # noqa: ASYNC110 - no event says so
        await anyio.sleep(_LOOK_FOR_REST_S)
