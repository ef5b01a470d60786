"""The worker: one task group of small duties around the claims that it runs. The story of this folder.

Duties are nested by lifetime: slots end first, then the last settlement goes out, and the beat is cancelled when
there is nothing left to keep alive.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

import anyio
from anyio.abc import TaskGroup

from mrun.engine.errors import BrokerAwayError, LauncherError
from mrun.engine.logging import log
from mrun.engine.records import ClaimRequest, WorkerAnswer
from mrun.engine.resources import CPUS, JOBS, SLOTS, amounts_text, lacking
from mrun.engine.stop_signals import stop_signals
from mrun.engine.store.bells import Bells
from mrun.engine.store.demands import class_facts
from mrun.engine.store.seal import Seal
from mrun.engine.store.store import Store
from mrun.engine.store.views import Views
from mrun.engine.work.executor import Executor
from mrun.engine.work.guard import GuardLink
from mrun.engine.work.heartbeat import Heartbeat
from mrun.engine.work.settler import Settler
from mrun.engine.work.slot import Slot
from mrun.engine.work.state import Stop, WorkerOptions, WorkerState
from mrun.engine.work.studies import Studies
from mrun.launchers.base import Launcher

#: Without a bell, a worker looks for work so often (a token may have died with who took it); and so many times in a
#: lease, at least: a look is a sign of life, and spares an idle worker its beats.
_LOOK_EVERY_S, _LOOKS_A_LEASE = 5.0, 5
#: A worker that what waits does not fit looks so often whether there is something smaller.
_LOOK_FOR_ROOM_EVERY_S = 1.0
#: The same for a worker that exits when everything is done.
_LOOK_FOR_END_EVERY_S = 1.0
#: However soon a worker without work is to leave, it looks no more often.
_LOOK_LEAST_S = 0.1
#: A worker that is to end now has so long to end what it runs, and then to hand it back, if the server answers.
_END_RUNNING_S, _FAREWELL_S = 5.0, 2.0


def look_every_s(options: WorkerOptions) -> float:
    """How long a worker without work waits for a bell."""
    every_s = _LOOK_FOR_END_EVERY_S if options.is_exit_when_done else _LOOK_EVERY_S
    if options.idle_exit_s is not None:
        every_s = min(every_s, max(_LOOK_LEAST_S, options.idle_exit_s / 2))
    return min(every_s, options.lease_s / _LOOKS_A_LEASE)


class Worker:
    """Claims ranges of samples, runs them, settles them, until it is asked to stop or everything is done."""

    def __init__(self, state: WorkerState, store: Store, bells: Bells, seal: Seal) -> None:
        self._state, self._store, self._bells, self._seal = state, store, bells, seal
        self._views = Views(store, seal)
        self._has_logged_idle = False
        #: Since when it has no claim, and finds none, on the monotonic clock.
        self._idle_since: float | None = None
        #: Streams of classes that never fit this worker, and for which the log says so.
        self._logged_unfit: set[str] = set()
        #: The server has answered a beat.
        self._is_known = False

    async def run(self, launcher: Launcher, link: GuardLink) -> None:
        """Work.

        Raises:
            LauncherError: it was to exit when done, and refused a study that it could not start.
            BrokerAwayError: it was to end now, and the server did not hear what it gave up.
            BrokerError: the server can't be used and that won't heal.
        """
        state = self._state
        self._store.read_moves()
        studies = Studies(self._store, self._seal, state.worker, state.facts.host)
        executor = Executor(launcher, link, state.options.environment, state.worker)
        slot = Slot(state, studies, executor)
        settler, heartbeat = Settler(state, self._store, studies, self._seal), Heartbeat(state, self._store, studies)
        try:
            async with anyio.create_task_group() as life:
                # Before the first beat: who sees this worker on the server may stop it at once.
                life.start_soon(self._watch_signals)
                life.start_soon(self._watch_guard, link)
                life.start_soon(self._give_up, life.cancel_scope)
                await self._beat_while(heartbeat, settler, slot, executor)
                # Only now: a beat after it would make the worker known again, for one lease.
                await self._store.leave(state.worker)
                life.cancel_scope.cancel()
        finally:
            settler.journal_unheard()
            studies.close()
        executor.close()
        log.info("worker_stopped", worker=state.worker)
        if state.claims:
            count = len(state.claims)
            raise BrokerAwayError(
                f"This worker ended and could not tell the server: {count} of its claims are not handed back.",
                hint="Nothing to do: others run their samples when this worker's lease has ended.",
            )
        if state.stop is Stop.NONE:
            # It was to exit by itself.
            await self._raise_refused()

    async def _beat_while(self, heartbeat: Heartbeat, settler: Settler, slot: Slot, executor: Executor) -> None:
        """Claim, run and settle, from the first beat to the last settlement."""
        state = self._state
        await heartbeat.beat()
        self._is_known = True
        log.info(
            "worker_started",
            worker=state.worker,
            queues=state.options.queues,
            slots=state.options.inventory.slots,
            resources=state.options.inventory.text,
        )
        async with anyio.create_task_group() as beating:
            beating.start_soon(heartbeat.run)
            await beating.start(executor.jobs.run)
            async with anyio.create_task_group() as settling:
                settling.start_soon(settler.run)
                async with anyio.create_task_group() as running:
                    await self._claim(running, slot)
                settler.is_last = True
                state.settle_wanted.set()
            beating.cancel_scope.cancel()

    async def _give_up(self, life: anyio.CancelScope) -> None:
        """End the worker when it is asked to end, even if the server does not answer."""
        state = self._state
        await state.drain_asked.wait()
        if self._is_known:
            await state.end_asked.wait()
            with anyio.move_on_after(_END_RUNNING_S):
                while any(not claim.is_done for claim in state.claims.values()):
                    await state.slot_freed.wait(_END_RUNNING_S)
            # The output of what has ended is written, however long that takes: without it the sample would run again.
            while any(claim.is_keeping for claim in state.claims.values()):
                await state.slot_freed.wait(_END_RUNNING_S)
            await anyio.sleep(_FAREWELL_S)
        else:
            # The server may have heard the first beat all the same.
            with anyio.move_on_after(_FAREWELL_S):
                await self._store.leave(state.worker)
        life.cancel()

    async def _claim(self, running: TaskGroup, slot: Slot) -> None:
        """The claim duty: keep the slots busy until there is a reason to stop."""
        state = self._state
        while state.stop is Stop.NONE:
            options, offer = state.options, state.backfill.offer(state.running)
            # Jobs need no slot: with none that is free, the worker looks for them now and then.
            if not offer.can_start and (await state.slot_freed.wait(_LOOK_EVERY_S) or not offer.free.get(JOBS)):
                continue
            slots, refused = offer.free.get(SLOTS, 0), tuple(state.refused)
            request = ClaimRequest(slots, options.queues, refused, options.root_study, state.time_left_ms(), offer)
            asked_at = time.monotonic()
            answer = await self._store.claim(state.worker, request)
            state.note_look(asked_at, answer)
            for claim in answer.claims:
                running.start_soon(slot.run, state.take(claim))
                self._idle_since = None
            state.backfill.note(answer, state.running)
            if answer.status == WorkerAnswer.UNKNOWN:
                await anyio.sleep(0.1)
            elif answer.status == WorkerAnswer.DRAIN:
                state.ask_stop(Stop.DRAIN)
            elif not answer.claims and not answer.has_more_work:
                if await self._is_all_done() or self._has_idled():
                    return
                await self._log_unfit(answer.unfit)
                if answer.waiting or answer.unfit or answer.is_kept:
                    # The bell rings for others: who listened now would hear nothing else.
                    await state.slot_freed.wait(_LOOK_FOR_ROOM_EVERY_S)
                elif offer.can_start:
                    await self._log_idle()
                    await self._wait_for_work()

    async def _log_unfit(self, streams: Sequence[str]) -> None:
        """Say once of each class that this worker can never run what it lacks, and how to give it."""
        for stream in set(streams) - self._logged_unfit:
            self._logged_unfit.add(stream)
            study, _, number = stream.rpartition(":")
            classes = await class_facts(self._store, study)
            if len(classes) <= int(number):
                continue  # the study is gone
            found = classes[int(number)]
            options = self._state.options
            lacks = lacking(found.amounts, options.inventory.most)
            short = amounts_text({name: found.amounts[name] for name in lacks})
            # One CPU every worker has.
            needed = {name: amount for name, amount in found.amounts.items() if (name, amount) != (CPUS, 1)}
            wanted = f"--queues {','.join(options.queues)} --resources {amounts_text(needed, ',')}"
            log.warning(
                "samples_unfit",
                study=study,
                steps=found.steps,
                why=f"They need {short}; this worker has {amounts_text(lacks)}.",
                hint=f"Another worker must run them: mrun work {wanted}",
            )

    async def _log_idle(self) -> None:
        """Say once that no study uses these queues: a name may be misspelt, or work is still to come."""
        options = self._state.options
        # One that exits when done does not wait.
        if options.is_exit_when_done or self._has_logged_idle:
            return
        if await self._views.has_unfinished(options.queues, options.root_study, ()):
            return
        self._has_logged_idle = True
        log.info("queues_unused", queues=options.queues, why="no unfinished study uses them", does="waits for one")

    async def _is_all_done(self) -> bool:
        """Only for a worker that exits when done: has every study that feeds its queues ended, but those it refused?"""
        options = self._state.options
        if not options.is_exit_when_done or self._state.claims:
            return False
        return not await self._views.has_unfinished(options.queues, options.root_study, set(self._state.refused))

    def _has_idled(self) -> bool:
        """Only for a worker that leaves when it is not needed: has it had no work for so long?"""
        limit_s = self._state.options.idle_exit_s
        if limit_s is None or self._state.claims:
            self._idle_since = None
            return False
        now = time.monotonic()
        self._idle_since = now if self._idle_since is None else self._idle_since
        if now - self._idle_since < limit_s:
            return False
        log.info("worker_idle", idle_s=round(now - self._idle_since, 1), does="leaves")
        return True

    async def _wait_for_work(self) -> None:
        """Until a bell rings, or another duty says that a look is worth while."""
        every_s = look_every_s(self._state.options)
        async with anyio.create_task_group() as waiting:

            async def listen() -> None:
                await self._bells.wait(every_s)
                waiting.cancel_scope.cancel()

            waiting.start_soon(listen)
            await self._state.look_wanted.wait(2 * every_s)
            waiting.cancel_scope.cancel()

    async def _raise_refused(self) -> None:
        """It exits because nothing is there but what it refused: that is no success."""
        for study, why in self._state.refused.items():
            if await self._views.has_unfinished(self._state.options.queues, study, ()):
                message = f"This worker refuses study '{study}', of which it can start nothing. {why}"
                raise LauncherError(
                    message, hint="Put that right, then start a worker again: the study is still queued."
                )

    async def _watch_signals(self) -> None:
        """The first signal drains, the next one ends everything now."""
        with anyio.open_signal_receiver(*stop_signals()) as signals:
            async for number in signals:
                how = Stop.NOW if self._state.stop >= Stop.DRAIN else Stop.DRAIN
                log.info("worker_signalled", signal=signal.Signals(number).name, does=how.name.lower())
                self._state.ask_stop(how)

    async def _watch_guard(self, link: GuardLink) -> None:
        """Without a guard nothing would end the steps if this process died: so end them now."""
        await anyio.wait_readable(link.life_fd)
        log.error("guard_died", does="ends its samples and hands them back")
        # A script that kills its guard would otherwise take one worker after another with it. Who drains is excused.
        self._state.has_lost_guard = self._state.stop is Stop.NONE
        self._state.ask_stop(Stop.NOW)
