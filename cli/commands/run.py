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

from mrun.cli.commands.queue import check_order, queue_study, read_order, spec_options
from mrun.cli.invocation import Invocation, Session
from mrun.cli.shown import show_study, study_json
from mrun.cli.waiting import Display, exit_code_of, wait_for_end
from mrun.engine.enqueue import Checked, Order, Queued
from mrun.engine.errors import LauncherError
from mrun.engine.plan import JOURNAL_DIR
from mrun.engine.store.connect import Broker
from mrun.engine.store.views import FailedSample, StudyStatus

_FAILURES_SHOWN = 10
#: Of the last steps' output: so many nodes, so many bytes of each.
_OUTPUTS_SHOWN, _OUTPUT_BYTES = 4, 2000
_TAIL_LINES = 5


class Ended(msgspec.Struct, frozen=True):
    """A study that was run, and what its last steps printed: path → text."""

    statuses: tuple[StudyStatus, ...]
    failed: tuple[FailedSample, ...]
    outputs: dict[str, str]


@click.command("run")
@spec_options
@click.option("--slots", type=click.IntRange(1, 4096), help="Samples to run at once. [default: cores]")
@click.option("--lease", "lease_s", metavar="SECONDS", help="Silence after which others take over. [default: 30]")
@click.pass_obj
def command(
    invocation: Invocation,
    spec: str,
    variables: tuple[str, ...],
    output_path: str | None,
    slots: int | None,
    lease_s: str | None,
) -> None:
    """Queue a study, work on it, and wait for its results.

    Starts your own server if no other is named, and one worker on this machine for this study and those that its steps
    queue. Other workers may help. Ctrl-C lets running samples finish and leaves the study queued; a second one ends
    them. Exit code 0 when every sample finished, 7 when some did not.

    \b
    Examples:
      $ mrun run spec.yaml
      $ mrun run spec.yaml --vars N_SAMPLES=50 -o /tmp/try --slots 4
    """
    order = read_order(spec, variables, output_path)
    checked = check_order(order)
    settings = invocation.settings(lease_s=lease_s)
    broker = invocation.broker(settings, may_start=True)
    options = [*(["--slots", str(slots)] if slots else []), "--lease", f"{settings.lease_s:g}"]
    runner = _Runner(invocation, broker, options)
    ended = anyio.run(runner.run, checked, order)
    runner.report(ended)
    sys.exit(runner.exit_code(ended))


class _Runner:
    """One `mrun run`."""

    def __init__(self, invocation: Invocation, broker: Broker, worker_options: Sequence[str]) -> None:
        self._invocation = invocation
        self._output = invocation.output
        self._broker = broker
        self._worker_options = worker_options
        self._interrupted: signal.Signals | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self._log_path = Path()

    async def run(self, checked: Checked, order: Order) -> Ended:
        async with self._invocation.session(broker=self._broker) as session:
            queued = await queue_study(session, checked, order)
            self._tell_beginning(queued)
            self._worker = self._start_worker(queued, session)
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._pass_signals_on)
                    statuses = await self._wait(session, queued.study)
                    group.cancel_scope.cancel()
            finally:
                self._stop_worker()
            failed = await session.views.failed_samples(queued.study, _FAILURES_SHOWN)
            return Ended(tuple(statuses), tuple(failed), _last_outputs(queued))

    def report(self, ended: Ended) -> None:
        """What came out."""
        output = self._output
        output.data({"studies": [study_json(one) for one in ended.statuses], "failed_samples": ended.failed,
                     "outputs": ended.outputs})  # fmt: skip
        output.ids(one.study for one in ended.statuses)
        for status in ended.statuses:
            show_study(output, status, ended.failed if status is ended.statuses[0] else ())
        for path, text in ended.outputs.items():
            output.say()
            output.say(f"{path}:")
            output.say(text.rstrip("\n"))
        if self._broker.is_own:
            output.note(
                f"\nused {self._broker.origin} ({self._broker.url}), which goes on running; mrun server stop stops it"
            )

    def exit_code(self, ended: Ended) -> int:
        """By what happened: interrupted, could not be worked on, samples failed, or done."""
        if all(status.is_ended for status in ended.statuses):
            return int(exit_code_of(ended.statuses))
        if self._interrupted is not None:
            self._output.note(
                "interrupted; the study stays queued: mrun work goes on with it, mrun cancel last ends it"
            )
            return 128 + self._interrupted
        assert self._worker is not None
        raise LauncherError(
            f"The worker ended with code {self._worker.returncode} before the study did: {self._log_tail()}",
            hint=f"The study stays queued. The worker's log is '{self._log_path}'.",
        )

    def _tell_beginning(self, queued: Queued) -> None:
        self._output.warn(queued.warnings)
        started = " (started now)" if self._broker.was_started else ""
        self._output.note(f"server     {self._broker.origin}{started}: {self._broker.url}")
        self._output.note(f"study      {queued.study}  {queued.name}: {queued.node_count} nodes, "
                          f"{queued.sample_count} samples")  # fmt: skip
        self._output.note(f"workspace  {queued.workspace}")

    def _start_worker(self, queued: Queued, session: Session) -> subprocess.Popen[bytes]:
        self._log_path = Path(queued.workspace, JOURNAL_DIR, "worker.log")
        words = [sys.executable, "-m", "mrun", "--namespace", session.store.keys.namespace, "work"]
        words += [
            "--queues",
            ",".join(queued.queues),
            "--study",
            queued.study,
            "--exit-when-done",
            *self._worker_options,
        ]
        environment = dict(os.environ) | {"MRUN_PARENT": str(os.getpid())}
        if self._broker.is_own or self._invocation.settings().broker is not None:
            environment["MRUN_BROKER"] = self._broker.url
        with self._log_path.open("ab") as log:
            # A session of its own: Ctrl-C comes to this process only, which passes it on.
            return subprocess.Popen(
                words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    async def _wait(self, session: Session, study: str) -> list[StudyStatus]:
        async def family() -> list[str]:
            return await session.views.family(study)

        with Display(self._output) as display:
            return await wait_for_end(
                session, family, display, lambda: self._worker is not None and self._worker.poll() is None
            )

    async def _pass_signals_on(self) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for number in signals:
                self._interrupted = self._interrupted or signal.Signals(number)
                self._output.note("finishing running samples; once more to end them now")
                if self._worker is not None:
                    self._worker.send_signal(signal.SIGTERM)

    def _stop_worker(self) -> None:
        """The study has ended, or we are going: the worker drains, which takes as long as what it still runs."""
        if self._worker is not None:
            if self._worker.poll() is None:
                self._worker.send_signal(signal.SIGTERM)
            self._worker.wait()

    def _log_tail(self) -> str:
        try:
            lines = self._log_path.read_text(errors="replace").splitlines()
        except OSError:
            return "its log can't be read"
        return "\n".join(lines[-_TAIL_LINES:])


def _last_outputs(queued: Queued) -> dict[str, str]:
    """What the nodes that nothing depends on printed: usually the study's answer."""
    outputs = {}
    for path in queued.last_outputs[:_OUTPUTS_SHOWN]:
        try:
            text = Path(path).read_bytes()[-_OUTPUT_BYTES:].decode(errors="replace")
        except OSError:
            continue
        if text.strip():
            outputs[path] = text
    return outputs
