"""`mrun run`: queue, work, show, wait; and tell what came out."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import click
import msgspec

from mrun.cli.invocation import Invocation, takes_words
from mrun.cli.main import cli, main
from mrun.cli.options import lease_option, spec_options
from mrun.cli.orders import SpecWords, check_order, dry_option, read_order, run_dry, say_queued, server_line
from mrun.cli.shown import counted, duration, show_study, study_json, work_line
from mrun.cli.styled import Styled
from mrun.cli.waiting import Display, exit_code_of, wait_for_end
from mrun.engine.errors import ExitCode
from mrun.engine.language.places import JOURNAL_DIR
from mrun.engine.plan.model import Plan
from mrun.engine.resources import Inventory
from mrun.engine.stop_signals import stop_signals
from mrun.engine.store.connect import Broker
from mrun.engine.store.session import Session
from mrun.engine.store.views import StudyStatus
from mrun.engine.studies.enqueue import Checked, Order, Queued, enqueue, prepare
from mrun.engine.studies.failures import FailedSample, failures_of
from mrun.engine.workers.crew import Crew
from mrun.engine.workers.forked import fork_worker
from mrun.engine.workers.inventory import allocation_here, inventory_here
from mrun.engine.workers.request import WorkerRequest

_FAILURES_SHOWN = 10
#: Of the last steps' output: so many nodes, so many bytes of each.
_OUTPUTS_SHOWN, _OUTPUT_BYTES = 4, 2000


class Ended(msgspec.Struct, frozen=True):
    """A study that was run, with those that its steps queued, and what its last steps printed: path → text."""

    statuses: tuple[StudyStatus, ...]
    failed: dict[str, list[FailedSample]]
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

    Starts your own server if you name no other, and one worker on this machine for this study and those that its steps
    queue. Other workers may help. The first Ctrl-C lets running samples finish and leaves the study queued; the second
    one ends these samples. The exit code is 0 if every sample finished, and 7 if some did not.

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
        runner = _Runner(invocation, broker, plan, has, Crew(worker, request, invocation.settings(), broker))
        ended = anyio.run(runner.run, checked, order)
    runner.report(ended)
    sys.exit(runner.exit_code(ended))


class _Runner:
    """One `mrun run`."""

    def __init__(self, invocation: Invocation, broker: Broker, plan: Plan, has: Inventory, crew: Crew) -> None:
        self._invocation = invocation
        self._output = invocation.output
        self._broker = broker
        self._plan, self._has = plan, has
        self._crew = crew
        self._display = Display(invocation.output)
        self._interrupted: signal.Signals | None = None

    async def run(self, checked: Checked, order: Order) -> Ended:
        async with self._invocation.session(broker=self._broker, is_lasting=True) as session:
            queued = await enqueue(session.store, session.seal, self._plan, order, checked.warnings)
            say_queued(self._output, queued, self._output.note)
            self._output.note(server_line(self._broker))
            if squeezed := _squeezed_line(self._plan, self._has):
                self._output.note(squeezed)
            log_path = Path(queued.workspace, JOURNAL_DIR, "worker.log")
            self._crew.serve(queued.study, queued.queues, log_path)
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._pass_signals_on)
                    statuses = await self._wait(session, queued.study, log_path)
                    group.cancel_scope.cancel()
            finally:
                # The study has ended, or this command ends before it.
                self._crew.stop()
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
        self._note_left(ended, f"the worker {self._crew.why_ended()}")
        return int(ExitCode.TERMINATED)

    def _note_left(self, ended: Ended, why: str) -> None:
        study = ended.statuses[0].study
        queues = {queue for status in ended.statuses if not status.is_ended for step in status.steps
                  for queue in step.queues}  # fmt: skip
        self._output.note(f"{why}; the study stays queued:")
        self._output.note(f"  {work_line(sorted(queues))} --exit-when-done   goes on with it")
        self._output.note(f"  mrun cancel {study}   ends it")

    async def _wait(self, session: Session, study: str, log_path: Path) -> list[StudyStatus]:
        async def family() -> list[str]:
            found = await session.views.family(study)
            if self._interrupted is None:
                self._crew.serve(study, await session.views.queues_of(found), log_path)
            return found

        with self._display:
            return await wait_for_end(session, family, self._display, lambda: self._crew.is_alive)

    async def _pass_signals_on(self) -> None:
        with anyio.open_signal_receiver(*stop_signals()) as signals:
            async for number in signals:
                is_first = self._interrupted is None
                self._interrupted = self._interrupted or signal.Signals(number)
                self._display.note(
                    "letting what runs finish; Ctrl-C once more ends it now" if is_first else "ending what runs"
                )
                self._crew.ask_to_stop()


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
