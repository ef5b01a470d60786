"""Waiting for studies to end, with or without a display."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import anyio

from mrun.cli.missing_workers import stranded_lines
from mrun.cli.output import Output
from mrun.engine.backoff import pauses
from mrun.engine.errors import BrokerAwayError, ExitCode, NotFoundError
from mrun.engine.lazy import lazy
from mrun.engine.store.session import Session
from mrun.engine.store.views import StudyStatus

if TYPE_CHECKING:
    from mrun.cli import bars
else:
    # With it comes rich, which only a terminal needs.
    bars = lazy("mrun.cli.bars")

#: Between two looks at the counters, at first and later: a study may end at once, or run for days.
_FIRST_LOOK_S, _LOOK_EVERY_S = 0.01, 0.25
#: Between two looks whether there are workers that can run what is ready.
_LOOK_FOR_STRANDED_EVERY_S = 2.0
#: Without a terminal, a line so often.
_LINE_EVERY_S = 10.0


class Display:
    """Live bars on a terminal, a line now and then elsewhere, nothing when asked for JSON or ids."""

    def __init__(self, output: Output) -> None:
        self._output = output
        is_live = sys.stderr.isatty() and not output.is_json and not output.is_quiet
        self._bars = bars.Bars() if is_live else None
        self._next_line_at = time.monotonic() + _LINE_EVERY_S

    def __enter__(self) -> Display:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def show(self, statuses: Sequence[StudyStatus]) -> None:
        """Bring it up to date."""
        if self._bars:
            self._bars.show(statuses)
        elif time.monotonic() >= self._next_line_at:
            self._next_line_at = time.monotonic() + _LINE_EVERY_S
            for status in statuses:
                parts = [f"{step.name} {step.settled}/{step.samples}" for step in status.steps]
                self._output.note(f"{status.study} {status.state}: {', '.join(parts)}")

    def note(self, text: str) -> None:
        """A line for people, above the bars."""
        if self._bars:
            self._bars.note(text)
        else:
            self._output.note(text)


class _StrandedNotes:
    """Says once of each step that it waits for what no worker has."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._noted: set[str] = set()
        self._next_at = 0.0

    async def note_new(self, session: Session, statuses: Sequence[StudyStatus]) -> None:
        """Look now and then, when there is something to run and nothing of it runs."""
        steps = [step for status in statuses for step in status.steps]
        is_still = any(step.ready for step in steps) and not any(step.running for step in steps)
        if not is_still or time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + _LOOK_FOR_STRANDED_EVERY_S
        studies = [status.study for status in statuses]
        for line in await stranded_lines(session, await session.views.inspect(), studies):
            if line not in self._noted:
                self._noted.add(line)
                self._display.note(line)


async def wait_for_end(
    session: Session, studies: Callable[[], Awaitable[list[str]]], display: Display, keeps_on: Callable[[], bool]
) -> list[StudyStatus]:
    """Look at the studies that `studies` finds, until all have ended or `keeps_on` says no.

    A server that goes away is waited for: it is started again by somebody, or the user gives up.

    Raises:
        NotFoundError: somebody removed them from the server.
    """
    statuses: list[StudyStatus] = []
    stranded = _StrandedNotes(display)
    is_away = False
    for pause_s in pauses(_FIRST_LOOK_S, _LOOK_EVERY_S, factor=1.2):
        # Asked before the look: the worker that ends a study and goes is not mistaken for one that left it.
        is_last = not keeps_on()
        try:
            found = await studies()
            if not found:
                raise NotFoundError("The study was removed from the server (mrun purge).", hint="Queue it again.")
            statuses = [await session.views.status(study) for study in found]
            display.show(statuses)
            await stranded.note_new(session, statuses)
            is_away = False
        except BrokerAwayError as error:
            if not is_away:
                display.note(f"{error.message} Waiting for it; Ctrl-C gives up.")
            is_away = True
        if (statuses and all(status.is_ended for status in statuses)) or is_last:
            break
        await anyio.sleep(pause_s)
    return statuses


def exit_code_of(statuses: Sequence[StudyStatus]) -> ExitCode:
    """0, or 7 when samples did not finish."""
    is_well = all(status.state == "finished" and status.failures == 0 for status in statuses)
    return ExitCode.DONE if is_well else ExitCode.SAMPLES_FAILED
