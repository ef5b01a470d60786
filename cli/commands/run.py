"""`mrun run`: queue, work, show, wait; and tell what came out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import click
import msgspec

from mrun.cli.failures import failures_of
from mrun.cli.invocation import Invocation, takes_words
from mrun.cli.main import cli, main
from mrun.cli.options import lease_option, spec_options
from mrun.cli.orders import SpecWords, check_order, dry_option, read_order, run_dry, say_queued, server_line
from mrun.cli.shown import FailedPlace, counted, duration, show_study, study_json, work_line
from mrun.cli.styled import Styled
from mrun.cli.waiting import Display, exit_code_of, wait_for_end
from mrun.engine.errors import BrokerError, ExitCode, LauncherError, MrunError
from mrun.engine.plan.model import Plan
from mrun.engine.plan.places import JOURNAL_DIR
from mrun.engine.resources import Inventory
from mrun.engine.stop_signals import stop_signals
from mrun.engine.store.connect import Broker
from mrun.engine.store.session import Session
from mrun.engine.store.views import StudyStatus
from mrun.engine.studies.enqueue import Checked, Order, Queued, enqueue, prepare
from mrun.engine.workers.environment import PARENT_VARIABLE, worker_environment
from mrun.engine.workers.forked import ForkedWorker, WorkerStart, fork_worker, spawn_worker
from mrun.engine.workers.inventory import allocation_here, inventory_here
from mrun.engine.workers.request import WorkerRequest, worker_words

_FAILURES_SHOWN = 10
#: Of the last steps' output: so many nodes, so many bytes of each.
_OUTPUTS_SHOWN, _OUTPUT_BYTES = 4, 2000
_TAIL_LINES = 5


class Ended(msgspec.Struct, frozen=True):
    """A study that was run, with those that its steps queued, and what its last steps printed: path → text."""

    statuses: tuple[StudyStatus, ...]
    failed: dict[str, list[FailedPlace]]
    outputs: dict[str, str]


class RunWords(SpecWords, frozen=True, kw_only=True):
    """The arguments and options of `mrun run`."""

    is_dry: bool
    slots: int | None
    resources: str | None
    lease_s: str | None


@click.command("run")
@spec_options
@dry_option
@click.option("--slots", type=click.IntRange(1, 4096), help="Scripts to run at once. [default: cores]")
@click.option("--resources", metavar="NAME=N,…", help="What the worker has, as for mrun work. [default: what it finds]")
@lease_option
@takes_words(RunWords)
def command(invocation: Invocation, words: RunWords) -> None:
    """Queue a study, work on it, and wait for its results.

    Starts your own server if no other is named, and one worker on this machine for this study and those that its steps
    queue. Other workers may help. Ctrl-C lets running samples finish and leaves the study queued; a second one ends
    them. Exit code 0 when every sample finished, 7 when some did not.

    \b
    Examples:
      $ mrun run spec.yaml
      $ mrun run spec.yaml --vars N_SAMPLES=50 -o /tmp/try --slots 4
    """
    order = read_order(words)
    checked = check_order(order)
    if words.is_dry:
        run_dry(invocation, checked)
        return
    settings = invocation.settings(lease_s=words.lease_s, resources=words.resources)
    context = click.get_current_context()
    request = WorkerRequest(
        slots=words.slots, resources=words.resources, lease_s=f"{settings.lease_s:g}", is_exit_when_done=True
    )
    with fork_worker(lambda: cli.get_command(context, "work"), main) as worker:
        broker = invocation.reach_broker(settings)
        plan = prepare(checked)
        has = inventory_here(settings, allocation_here(), words.slots or settings.slots)
        runner = _Runner(invocation, broker, plan, has, worker, request)
        ended = anyio.run(runner.run, checked, order)
    runner.report(ended)
    sys.exit(runner.exit_code(ended))


class _Runner:
    """One `mrun run`."""

    def __init__(
        self,
        invocation: Invocation,
        broker: Broker,
        plan: Plan,
        has: Inventory,
        first_worker: ForkedWorker,
        request: WorkerRequest,
    ) -> None:
        self._invocation = invocation
        self._output = invocation.output
        self._broker = broker
        self._plan, self._has = plan, has
        self._first_worker, self._request = first_worker, request
        self._display = Display(invocation.output)
        self._interrupted: signal.Signals | None = None
        #: One for the study's queues; another one when its steps queue a study that uses other queues.
        self._workers: list[ForkedWorker | subprocess.Popen[bytes]] = []
        self._served_queues: set[str] = set()
        self._log_path = Path()

    async def run(self, checked: Checked, order: Order) -> Ended:
        async with self._invocation.session(broker=self._broker, is_lasting=True) as session:
            queued = await enqueue(session.store, session.seal, self._plan, order, checked.warnings)
            say_queued(self._output, queued, self._output.note)
            self._output.note(server_line(self._broker))
            if squeezed := _squeezed_line(self._plan, self._has):
                self._output.note(squeezed)
            self._log_path = Path(queued.workspace, JOURNAL_DIR, "worker.log")
            self._start_worker(queued.study, queued.queues)
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._pass_signals_on)
                    statuses = await self._wait(session, queued.study)
                    group.cancel_scope.cancel()
            finally:
                self._stop_workers()
            plans = {queued.study: self._plan}
            failed = {
                status.study: await failures_of(session, status.study, _FAILURES_SHOWN, plans.get(status.study))
                for status in statuses
            }
            return Ended(tuple(statuses), failed, _last_outputs(queued))

    def report(self, ended: Ended) -> None:
        """What came out."""
        output = self._output
        failed = [one for failed in ended.failed.values() for one in failed]
        output.data({"studies": [study_json(one) for one in ended.statuses], "failed_samples": failed,
                     "outputs": ended.outputs, "server": self._broker.url})  # fmt: skip
        output.ids(one.study for one in ended.statuses)
        for status in ended.statuses:
            output.say()
            show_study(output, status, ended.failed[status.study])
        for path, text in ended.outputs.items():
            output.say()
            output.say(Styled((f"{path}:", "dim")))
            output.say(text.rstrip("\n"))
        if all(status.is_ended for status in ended.statuses):
            output.say()
            output.say(_verdict(ended.statuses))

    def exit_code(self, ended: Ended) -> int:
        """By what happened: interrupted, could not be worked on, samples failed, or done.

        Raises:
            MrunError: the worker ended before the study did, and nobody had asked it to.
        """
        if all(status.is_ended for status in ended.statuses):
            return int(exit_code_of(ended.statuses))
        if self._interrupted is not None:
            self._note_left(ended, "interrupted")
            return 128 + self._interrupted
        codes = [worker.wait() for worker in self._workers]
        if killed_by := next(filter(None, map(_killer, codes)), ""):
            self._note_left(ended, f"the worker was killed by {killed_by}")
            return int(ExitCode.TERMINATED)
        code = max(codes)
        if code == ExitCode.DONE:
            # By `mrun stop`, or by a step that ended with 105 (STOP_WORKERS).
            self._note_left(ended, "the worker was asked to stop")
            return int(ExitCode.TERMINATED)
        kinds: dict[int, type[MrunError]] = {ExitCode.BROKER: BrokerError, ExitCode.SCHEDULER: LauncherError}
        kind = kinds.get(code, MrunError)
        raise kind(
            f"The worker ended with code {code} before the study did: {self._log_tail()}",
            hint=f"The study stays queued, mrun work goes on with it. The worker's log is '{self._log_path}'.",
        )

    def _note_left(self, ended: Ended, why: str) -> None:
        study = ended.statuses[0].study
        queues = {queue for status in ended.statuses if not status.is_ended for step in status.steps
                  for queue in step.queues}  # fmt: skip
        self._output.note(f"{why}; the study stays queued:")
        self._output.note(f"  {work_line(sorted(queues))} --exit-when-done   goes on with it")
        self._output.note(f"  mrun cancel {study}   ends it")

    def _start_worker(self, study: str, queues: Sequence[str]) -> None:
        self._served_queues |= set(queues)
        settings = self._invocation.settings()
        words = worker_words(msgspec.structs.replace(self._request, queues=tuple(queues), study=study), settings)
        environment = worker_environment(os.environ, settings, self._broker) | {PARENT_VARIABLE: str(os.getpid())}
        start = WorkerStart(words, environment, str(self._log_path))
        if not self._workers:
            self._first_worker.begin(start)
            self._workers.append(self._first_worker)
        else:
            self._workers.append(spawn_worker(start))

    async def _wait(self, session: Session, study: str) -> list[StudyStatus]:
        async def family() -> list[str]:
            found = await session.views.family(study)
            new_queues = await session.views.queues_of(found) - self._served_queues
            if new_queues and self._interrupted is None:
                self._start_worker(study, sorted(new_queues))
            return found

        with self._display:
            return await wait_for_end(session, family, self._display, self._is_worked_on)

    def _is_worked_on(self) -> bool:
        return any(worker.poll() is None for worker in self._workers)

    async def _pass_signals_on(self) -> None:
        with anyio.open_signal_receiver(*stop_signals()) as signals:
            async for number in signals:
                is_first = self._interrupted is None
                self._interrupted = self._interrupted or signal.Signals(number)
                self._display.note(
                    "letting what runs finish; Ctrl-C once more ends it now" if is_first else "ending what runs"
                )
                for worker in self._workers:
                    worker.send_signal(signal.SIGTERM)

    def _stop_workers(self) -> None:
        """The study has ended, or we are going: workers drain, which takes as long as what they still run."""
        for worker in self._workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        for worker in self._workers:
            worker.wait()

    def _log_tail(self) -> str:
        """The last of what the worker said, but for its log lines."""
        try:
            lines = self._log_path.read_text(errors="replace").splitlines()
        except OSError:
            return "its log can't be read"
        return "\n".join([line for line in lines if not line.startswith("{")][-_TAIL_LINES:] or lines[-1:])


def _killer(code: int) -> str:
    """The signal that killed a worker: its guard, or its engine, which the guard tells as 128 + n; empty: none."""
    number = -code if code < 0 else code - 128
    return signal.Signals(number).name if number in set(signal.Signals) else ""


def _squeezed_line(plan: Plan, has: Inventory) -> str:
    """What is to be said of steps that ask for more CPUs than the worker has found; empty: nothing."""
    if has.has_told_cpus:
        return ""  # they wait for another worker
    asked: dict[str, int] = {}
    for step in plan.steps:
        cpus = max((terms.demand.cpus for terms in step.other_terms or (step,) if not terms.demand.is_job), default=0)
        asked |= {step.name: cpus} if cpus > has.cpus else {}
    steps = ", ".join(f"'{name}' asks for {cpus}" for name, cpus in asked.items())
    return f"the worker has {counted(has.cpus, 'CPU')}; {steps}: they take all of them, and run alone" if steps else ""


def _verdict(statuses: Sequence[StudyStatus]) -> Styled:
    """The last line: what a person who comes back wants to know."""
    total = sum(step.samples for status in statuses for step in status.steps)
    bad = sum(status.failures for status in statuses)
    elapsed_s = max(status.ended_at or 0 for status in statuses) - min(status.queued_at for status in statuses)
    if bad == 0 and all(status.state == "finished" for status in statuses):
        return Styled((f"all {counted(total, 'script')} finished in {duration(elapsed_s)}", "green"))
    return Styled((f"{bad:,} of {counted(total, 'script')} did not finish; {duration(elapsed_s)}", "bold red"))


def _last_outputs(queued: Queued) -> dict[str, str]:
    """What the nodes that nothing depends on printed: usually the study's answer. The last step's comes last."""
    outputs: dict[str, str] = {}
    for path in queued.last_outputs:
        try:
            text = Path(path).read_bytes()[-_OUTPUT_BYTES:].decode(errors="replace")
        except OSError:
            continue
        if text.strip() and len(outputs) < _OUTPUTS_SHOWN:
            outputs[path] = text
    return dict(reversed(outputs.items()))
