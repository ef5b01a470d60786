"""Waiting for studies to end, with or without a display."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

import anyio
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mrun.cli.invocation import Session
from mrun.cli.output import Output
from mrun.engine.errors import BrokerAwayError, ExitCode
from mrun.engine.store.views import StudyStatus

#: Between two looks at the counters.
LOOK_EVERY_S = 0.25
#: Without a terminal, a line so often.
_LINE_EVERY_S = 10.0


class Display:
    """Live bars on a terminal, a line now and then elsewhere, nothing when asked for JSON or ids."""

    def __init__(self, output: Output) -> None:
        self._output = output
        console = output.people
        self._is_live = console.is_terminal and not output.is_json and not output.is_quiet
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not self._is_live,
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._next_line_at = time.monotonic() + _LINE_EVERY_S

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, statuses: Sequence[StudyStatus]) -> None:
        """Bring it up to date."""
        if self._is_live:
            self._update_bars(statuses)
        elif time.monotonic() >= self._next_line_at:
            self._next_line_at = time.monotonic() + _LINE_EVERY_S
            self._print_lines(statuses)

    def _update_bars(self, statuses: Sequence[StudyStatus]) -> None:
        for status in statuses:
            for step in status.steps:
                key = (status.study, step.name)
                if key not in self._tasks:
                    self._tasks[key] = self._bars.add_task(step.name, total=step.samples, detail="")
                parts = [f"{count} {name}" for name, count in (
                    ("running", step.running), ("retrying", step.retrying), ("failed", step.failed + step.dead),
                    ("skipped", step.skipped), ("cancelled", step.cancelled),
                ) if count]  # fmt: skip
                self._bars.update(self._tasks[key], completed=step.settled, detail=", ".join(parts))

    def _print_lines(self, statuses: Sequence[StudyStatus]) -> None:
        for status in statuses:
            parts = [f"{step.name} {step.settled}/{step.samples}" for step in status.steps]
            self._output.note(f"{status.study} {status.state}: {', '.join(parts)}")


async def wait_for_end(
    session: Session, studies: Callable[[], Awaitable[list[str]]], display: Display, keeps_on: Callable[[], bool]
) -> list[StudyStatus]:
    """Look at the studies that `studies` finds, until all have ended or `keeps_on` says no.

    A server that goes away is waited for: it is started again by somebody, or the user gives up.
    """
    statuses: list[StudyStatus] = []
    while True:
        try:
            statuses = [await session.views.status(study) for study in await studies()]
            display.show(statuses)
        except BrokerAwayError:
            await anyio.sleep(1)
        if (statuses and all(status.is_ended for status in statuses)) or not keeps_on():
            return statuses
        await anyio.sleep(LOOK_EVERY_S)


def exit_code_of(statuses: Sequence[StudyStatus]) -> ExitCode:
    """0, or 7 when samples did not finish."""
    is_well = all(status.state == "finished" and status.failures == 0 for status in statuses)
    return ExitCode.DONE if is_well else ExitCode.SAMPLES_FAILED
