"""A slot: runs the samples of one claim, in order."""

from __future__ import annotations

import contextlib
import logging
import signal
import time

import anyio
import msgspec

from mrun.engine.errors import MrunError
from mrun.engine.logging import log
from mrun.engine.records import Claim, SampleState
from mrun.engine.resources import CPUS
from mrun.engine.work.desk import Desk
from mrun.engine.work.execution import Executor, StartError
from mrun.engine.work.held import Ending, HeldClaim
from mrun.engine.work.launched import JobLeftError, LaunchError
from mrun.engine.work.outcomes import CANCELLED, Exit, Outcome, judge
from mrun.engine.work.processes import GRACE_S
from mrun.engine.work.studies import Studies, WorkedStudy
from mrun.engine.work.warm_shell import WarmShellError
from mrun.engine.workspace.journal import Claimed

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
    """Runs claims. One object serves all slots of a worker: what differs is in the claim in hand."""

    def __init__(self, desk: Desk, studies: Studies, executor: Executor) -> None:
        self._desk, self._studies, self._executor = desk, studies, executor
        # Asked once: a line that nobody reads would be put together for each sample.
        self._squeezed: set[tuple[str, str]] = set()
        self._is_debugging = bool(log.is_enabled_for(logging.DEBUG))
        self._is_preparing_ahead = desk.options.inventory.slots <= _AHEAD_SLOTS_MOST

    async def run(self, held: HeldClaim) -> None:
        """Run a claim to its end, or as far as it may go. Never raises for what a sample or its study does."""
        try:
            study = await self._studies.get(held.claim.study, held.claim.edition)
            if study.samples is not None and study.text(held.claim.node).step.uses_samples:
                # Others may change it while we run: then nothing more is read from it.
                study.samples.verify()
            self._journal(study, held)
            self._tell_squeezed(study, held.claim)
            while held.at < held.limit and not held.is_lost:
                if not await self._run_sample(study, held):
                    break
        except MrunError as error:
            self._refuse(held.claim.study, f"{error.message} {error.hint}".strip())
        finally:
            held.stop_after_current()
            if held.following is not None:
                held.following.close()
                held.following = None
                held.stop_after_current()
            if held.prepared is not None:
                self._executor.drop(held.prepared)
                held.prepared = None
            held.is_done = True
            self._desk.settle_wanted.set()
            self._desk.slot_freed.set()

    def _tell_squeezed(self, study: WorkedStudy, claim: Claim) -> None:
        """Say once of a step that it has fewer CPUs than it asks for: it has all that there are, and runs alone."""
        step, asked = study.text(claim.node).step.name, study.text(claim.node).terms.demand.cpus
        has = claim.takes.get(CPUS, asked)
        if has < asked and (study.study, step) not in self._squeezed:
            self._squeezed.add((study.study, step))
            log.info("step_squeezed", study=study.study, step=step, asks_for_cpus=asked, gets_cpus=has, runs="alone")

    async def _run_sample(self, study: WorkedStudy, held: HeldClaim) -> bool:
        """Run the sample at `held.at`. False: the claim ends before it."""
        claim = held.claim
        try:
            if held.following is not None:
                held.execution, held.following = held.following, None
            else:
                prepared = held.prepared or self._executor.prepare(study, claim, held.at, held.grant)
                held.prepared = None
                held.execution = self._executor.start(prepared)
        except StartError as error:
            return self._note_failed_start(study, held, error)
        terms = study.text(claim.node).terms
        try:
            self._prepare_next(study, held)
            # A job's walltime is its scheduler's to keep: it begins with the job, and not with its time in the queue.
            end = await self._await_end(held, None if terms.job else terms.walltime_s)
            if end.is_timeout or held.ending:
                await _end_rest(held)
            ending = held.ending
            is_finished = ending is None and end.code == 0 and not end.is_timeout
            # It takes its time if there is much to keep. Whoever wants the sample ended meanwhile is too late.
            held.is_keeping = True
            await held.execution.keep(end, is_finished=is_finished, is_lost=ending is Ending.LOST)
        except JobLeftError as left:
            held.limit, held.is_limit_started = held.at, left.has_begun
            return False
        except (StartError, WarmShellError, LaunchError) as error:
            held.is_limit_started = not isinstance(error, StartError) and error.has_begun
            return self._note_failed_start(study, held, error)
        finally:
            held.is_keeping = False
            held.execution.close()
            held.execution = None
        study.failed_starts = 0
        if held.ending is Ending.LOST:
            return False
        if ending is Ending.DRAINED:
            held.limit, held.is_limit_started = held.at, True
            return False
        outcome = CANCELLED if ending is Ending.CANCELLED else judge(end, terms, claim.attempt)
        self._log_end(study, held, end, outcome)
        held.note(outcome, end)
        if held.unsettled_s > _LOOK_S:
            self._desk.settle_wanted.set()
        # What is settled of it first has told the server the pace, so that the next bites are shorter.
        if held.held_s > (LONG_CLAIM_S if terms.chunk is None else LONG_CHUNK_S):
            held.stop_after_current()
        return True

    def _prepare_next(self, study: WorkedStudy, held: HeldClaim) -> None:
        """While a sample runs: at its end the next one only has to be started. What fails now is told in its turn."""
        if not self._is_preparing_ahead or held.at + 1 >= held.limit:
            return
        assert held.execution is not None
        claim = held.claim
        with contextlib.suppress(MrunError):
            prepared = self._executor.prepare(study, claim, held.at + 1, held.grant)
            # To start one early says that it began; so not if that would be told later, or long before it is true.
            if 0 < claim.pace_ms <= _FOLLOW_PACE_MS and not prepared.ready.instance.may_have_started:
                held.following = self._executor.start_behind(held.execution, prepared)
            if held.following is None:
                held.prepared = prepared

    def _log_end(self, study: WorkedStudy, held: HeldClaim, end: Exit, outcome: Outcome) -> None:
        is_told = outcome.state is SampleState.FAILED and study.failures_logged < FAILURES_LOGGED_MOST
        if not is_told and not self._is_debugging:
            return
        text = study.text(held.claim.node)
        facts = {"study": study.study, "instance": text.instance_name, "sample": held.at, "state": outcome.state.value}
        if not is_told:
            log.debug("sample_ended", **facts, code=end.code)
            return
        study.failures_logged += 1
        log.info("sample_failed", **facts, why=outcome.reason, directory=text.sample_directory(held.at))

    async def _await_end(self, held: HeldClaim, walltime_s: float | None) -> Exit:
        """Wait for the process; on the way share the rest of the claim, keep the walltime, and kill what won't end."""
        assert held.execution is not None
        process = held.execution.process
        is_timeout = False
        if (end := await process.wait_within(min(SLOW_S, walltime_s or SLOW_S))) is not None:
            return end
        if held.limit > held.at + 1:
            held.slow_ms = round(1000 * process.elapsed_s)
            held.stop_after_current()
            self._desk.settle_wanted.set()
        while True:
            left_s = _LOOK_S
            if walltime_s is not None and not is_timeout:
                left_s = min(left_s, walltime_s - process.elapsed_s)
                if left_s <= 0:
                    is_timeout = True
                    process.signal(signal.SIGTERM)
                    kill_at = time.monotonic() + GRACE_S
                    # Who was told to end sooner ends sooner.
                    held.kill_at = min(held.kill_at, kill_at) if held.ending else kill_at
            if (is_timeout or held.ending) and time.monotonic() >= held.kill_at:
                process.signal(signal.SIGKILL)
            if (end := await process.wait_within(max(0.01, left_s))) is not None:
                return msgspec.structs.replace(end, is_timeout=is_timeout)

    def _note_failed_start(self, study: WorkedStudy, held: HeldClaim, error: MrunError) -> bool:
        """The sample goes back, its attempt kept; after some in a row this worker wants no more of the study."""
        held.limit = held.at
        study.failed_starts += not isinstance(error, LaunchError) or error.is_counted
        log.warning("sample_not_started", study=study.study, sample=held.at, why=error.message)
        if study.failed_starts >= FAILED_STARTS_MOST:
            self._refuse(study.study, error.message)
        return False

    def _refuse(self, study: str, why: str) -> None:
        if study not in self._desk.refused:
            self._desk.refused[study] = why
            log.error("study_refused", study=study, why=why, hint="Other workers may still run it.")

    def _journal(self, study: WorkedStudy, held: HeldClaim) -> None:
        claim = held.claim
        with contextlib.suppress(OSError):
            # The server has the account; the journal is the second one, and a full disk is told by the sample itself.
            study.journal.write(Claimed(claim.number, claim.node, claim.lo, claim.hi, claim.attempt, time.time()))


async def _end_rest(held: HeldClaim) -> None:
    """SIGTERM ends a shell before the program that it waits for: that has as long, and is not left behind."""
    assert held.execution is not None
    process = held.execution.process
    # Not kept in a variable: it may be told meanwhile that it is to end sooner.
    while process.has_rest and time.monotonic() < held.kill_at:  # noqa: ASYNC110 - nobody tells
        await anyio.sleep(_LOOK_FOR_REST_S)
    process.end_rest()
    # Dead, and not yet reaped by whoever inherited it, it would be taken for somebody who still writes.
    until = time.monotonic() + _REAPED_WITHIN_S
    while process.has_rest and time.monotonic() < until:  # noqa: ASYNC110 - nobody tells
        await anyio.sleep(_LOOK_FOR_REST_S)
