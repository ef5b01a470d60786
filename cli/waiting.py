"""Waiting for studies to end, with or without a display."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

import anyio
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mrun.cli.invocation import Session
from mrun.cli.missing_workers import stranded_lines
from mrun.cli.output import Output
from mrun.cli.shown import STYLES, duration
from mrun.engine.errors import BrokerAwayError, ExitCode, NotFoundError
from mrun.engine.store.views import StepStatus, StudyStatus

#: Between two looks at the counters.
LOOK_EVERY_S = 0.25
#: Between two looks whether there are workers that can run what is ready.
_LOOK_FOR_STRANDED_EVERY_S = 2.0
#: Without a terminal, a line so often.
_LINE_EVERY_S = 10.0
#: A bar's width: what a narrow terminal can't spare for it, and what looks well on a wide one.
_BAR_LEAST_CHARS, _BAR_MOST_CHARS = 8, 40
#: What stands beside a bar: a step's name, counts, and what is not plain success.
_BESIDE_BAR_CHARS = 60
#: Lines of a terminal that the bars leave to others.
_SPARED_LINES = 4


class Display:
    """Live bars on a terminal, a line now and then elsewhere, nothing when asked for JSON or ids."""

    def __init__(self, output: Output) -> None:
        self._output = output
        # Not `output.people`, which leaves long lines to the terminal: the bars must know how many lines they take.
        self._console = Console(stderr=True, highlight=False)
        is_live = self._console.is_terminal and not output.is_json and not output.is_quiet
        self._live = Live(console=self._console, auto_refresh=False, transient=True) if is_live else None
        self._next_line_at = time.monotonic() + _LINE_EVERY_S

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, statuses: Sequence[StudyStatus]) -> None:
        """Bring it up to date."""
        if self._live:
            room = max(1, self._console.height - _SPARED_LINES - len(statuses))
            width = min(_BAR_MOST_CHARS, max(_BAR_LEAST_CHARS, self._console.width - _BESIDE_BAR_CHARS))
            # Of studies that have ended, a line: the one that runs is what somebody looks at.
            bars = [
                _title(one) if one.is_ended and one is not statuses[-1] else _bars(one, room, width) for one in statuses
            ]
            self._live.update(Group(*bars[-max(1, self._console.height // 2) :]), refresh=True)
        elif time.monotonic() >= self._next_line_at:
            self._next_line_at = time.monotonic() + _LINE_EVERY_S
            for status in statuses:
                parts = [f"{step.name} {step.settled}/{step.samples}" for step in status.steps]
                self._output.note(f"{status.study} {status.state}: {', '.join(parts)}")

    def note(self, text: str) -> None:
        """A line for people, above the bars."""
        if self._live:
            self._console.print(Text(text))
        else:
            self._output.note(text)


def _title(status: StudyStatus) -> Text:
    elapsed_s = (status.ended_at or time.time()) - status.queued_at
    title = Text.assemble((status.study, "bold"), f"  {status.name}  ", (status.state, STYLES.get(status.state, "")))
    return title.append(f"  {duration(elapsed_s)}", "dim")


def _bars(status: StudyStatus, room: int, width: int) -> Group:
    """A study: a line, and a bar for each step, as far as they have room; the first unended ones are worth most."""
    steps = list(status.steps)
    ended = [step for step in steps if step.settled == step.samples]
    notes = []
    while len(steps) + 1 > room and ended:
        steps.remove(ended.pop(0))
    if hidden := len(status.steps) - len(steps):
        notes.append(Text(f"  … {hidden} steps have ended", "dim"))
    if len(steps) > room:
        notes.append(Text(f"  … {len(steps) - room + 1} steps wait", "dim"))
        steps = steps[: max(1, room - 1)]
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, max_width=max(12, width))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, overflow="ellipsis")
    for step in steps:
        table.add_row(Text(f"  {step.name}"), _bar(step, width), _share(step), _detail(step, is_ended=status.is_ended))
    return Group(_title(status), table, *notes)


def _bar(step: StepStatus, width: int) -> Text:
    """Finished, failed, skipped or cancelled, running, and the rest, as parts of one bar."""
    failed, passed_by = step.failed + step.dead, step.skipped + step.cancelled
    counts = [(step.finished, "green"), (failed, "red"), (passed_by, "yellow"), (step.running, "cyan")]
    bar, done, drawn = Text(), 0, 0
    for count, style in counts:
        done += count
        # What there is at all is seen: one failure in a million has its character.
        upto = max(width * done // max(1, step.samples), min(width, drawn + bool(count)))
        bar.append("━" * (upto - drawn), style)
        drawn = upto
    return bar.append("─" * (width - drawn), "dim")


def _share(step: StepStatus) -> Text:
    return Text(f"{step.settled:,}/{step.samples:,}", "green" if step.settled == step.samples else "")


def _detail(step: StepStatus, *, is_ended: bool) -> Text:
    """What is not plain success; for a step that has not begun, what it waits for."""
    failed, settled = step.failed + step.dead, step.settled
    if not is_ended and not settled and not step.running and not step.retrying:
        return Text("ready for a worker" if step.ready else "waits for earlier steps", "dim")
    named = (("failed", failed), ("skipped", step.skipped), ("cancelled", step.cancelled), ("running", step.running),
             ("retrying", step.retrying))  # fmt: skip
    return Text(", ").join(Text(f"{count:,} {name}", STYLES[name]) for name, count in named if count)


class _StrandedTeller:
    """Says once of each step that it waits for what no worker has."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._told: set[str] = set()
        self._next_at = 0.0

    async def tell(self, session: Session, statuses: Sequence[StudyStatus]) -> None:
        """Look now and then, when there is something to run and nothing of it runs."""
        steps = [step for status in statuses for step in status.steps]
        is_still = any(step.ready for step in steps) and not any(step.running for step in steps)
        if not is_still or time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + _LOOK_FOR_STRANDED_EVERY_S
        studies = [status.study for status in statuses]
        for line in await stranded_lines(session, await session.views.inspect(), studies):
            if line not in self._told:
                self._told.add(line)
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
    stranded = _StrandedTeller(display)
    is_away = False
    while True:
        # Asked before the look: the worker that ends a study and goes is not mistaken for one that left it.
        is_last = not keeps_on()
        try:
            found = await studies()
            if not found:
                raise NotFoundError("The study was removed from the server (mrun purge).", hint="Queue it again.")
            statuses = [await session.views.status(study) for study in found]
            display.show(statuses)
            await stranded.tell(session, statuses)
            is_away = False
        except BrokerAwayError as error:
            if not is_away:
                display.note(f"{error.message} Waiting for it; Ctrl-C gives up.")
            is_away = True
        if (statuses and all(status.is_ended for status in statuses)) or is_last:
            return statuses
        await anyio.sleep(LOOK_EVERY_S)


def exit_code_of(statuses: Sequence[StudyStatus]) -> ExitCode:
    """0, or 7 when samples did not finish."""
    is_well = all(status.state == "finished" and status.failures == 0 for status in statuses)
    return ExitCode.DONE if is_well else ExitCode.SAMPLES_FAILED
