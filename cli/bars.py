"""Live bars on a terminal: a line for each study, and a bar for each of its steps."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mrun.cli.shown import STYLES, duration
from mrun.engine.store.views import StepStatus, StudyStatus

#: A bar's width: what a narrow terminal can't spare for it, and what looks well on a wide one.
_BAR_LEAST_CHARS, _BAR_MOST_CHARS = 8, 40
#: What stands beside a bar: a step's name, counts, and what is not plain success.
_BESIDE_BAR_CHARS = 60
#: Lines of a terminal that the bars leave to others.
_SPARED_LINES = 4


class Bars:
    """The bars on stderr, while they are shown."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self.start, self.stop = self._live.start, self._live.stop

    def show(self, statuses: Sequence[StudyStatus]) -> None:
        """Bring them up to date."""
        lines = max(1, self._console.height - _SPARED_LINES - len(statuses))
        width = min(_BAR_MOST_CHARS, max(_BAR_LEAST_CHARS, self._console.width - _BESIDE_BAR_CHARS))
        # A study that has ended is one line: somebody looks at the one that runs.
        bars = [
            _title(one) if one.is_ended and one is not statuses[-1] else _bars(one, lines, width) for one in statuses
        ]
        self._live.update(Group(*bars[-max(1, self._console.height // 2) :]), refresh=True)

    def note(self, text: str) -> None:
        """A line above them."""
        self._console.print(Text(text))


def _title(status: StudyStatus) -> Text:
    elapsed_s = (status.ended_at or time.time()) - status.queued_at
    title = Text.assemble((status.study, "bold"), f"  {status.name}  ", (status.state, STYLES.get(status.state, "")))
    return title.append(f"  {duration(elapsed_s)}", "dim")


def _bars(status: StudyStatus, lines: int, width: int) -> Group:
    """A study: a line, and a bar for each step. If lines are few, the first steps that have not ended get them."""
    steps = list(status.steps)
    ended = [step for step in steps if step.settled == step.samples]
    notes = []
    while len(steps) + 1 > lines and ended:
        steps.remove(ended.pop(0))
    if hidden := len(status.steps) - len(steps):
        notes.append(Text(f"  … {hidden} steps have ended", "dim"))
    if len(steps) > lines:
        notes.append(Text(f"  … {len(steps) - lines + 1} steps wait", "dim"))
        steps = steps[: max(1, lines - 1)]
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
