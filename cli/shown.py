"""Records to text: how studies, steps and failures look, in every command that shows them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from mrun.cli.output import Output
from mrun.cli.styled import Styled
from mrun.engine.store.views import StepStatus, StudyStatus
from mrun.engine.studies.failures import FailedSample

#: What can become of samples, in the order of their life. Those that no sample is in are not shown.
_STATES = ("waiting", "ready", "running", "retrying", "finished", "failed", "dead", "skipped", "cancelled")
_ALWAYS_SHOWN = ("finished", "failed")
#: How bad it is, by state of a study or of samples; others are plain.
STYLES = {
    "finished": "green",
    "failed": "bold red",
    "dead": "bold red",
    "skipped": "yellow",
    "cancelled": "yellow",
    "retrying": "yellow",
    "running": "cyan",
}


def show_study(output: Output, status: StudyStatus, failed: Sequence[FailedSample] = ()) -> None:
    """A study with its steps, and some of its failures."""
    output.say(headline(status))
    output.say(Styled(f"workspace  {status.workspace}"))
    show_steps(output, status.steps)
    for one in failed:
        where = f"  in {one.directory}" if one.directory else ""
        output.say(Styled((f"{one.instance or one.step}, sample {one.sample}", "red"), f": {one.reason}{where}"))
    if len(failed) < (count := sum(step.failed + step.dead for step in status.steps)) and failed:
        output.say(f"… {count - len(failed)} more failed")
    if any(one.directory for one in failed):
        output.say("What a script printed is in its directory: *.out and *.err.")
    elif failed:
        one = failed[0]
        output.say(f"What it printed: mrun logs {status.study} --step {one.step} --samples {one.sample} --stderr")


def headline(status: StudyStatus) -> Styled:
    """`id  name  state in 3.1 s (why)`."""
    line = Styled((status.study, "bold"), f"  {status.name}  ", (status.state, STYLES.get(status.state, "")))
    if status.ended_at is not None:
        line.append(f" after {duration(status.ended_at - status.queued_at)}")
    if status.why and status.state != "finished":
        line.append(f" ({status.why})")
    return line


def show_steps(output: Output, steps: Sequence[StepStatus]) -> None:
    """A line for each step: its samples by state, but for states in which there are none."""
    states = [
        state for state in _STATES if state in _ALWAYS_SHOWN or any(getattr(step, state) for step in steps)
    ]  # fmt: skip
    output.table(
        ("step", "queue", "samples", *states, "mean s"),
        [
            (
                *(step.name, ",".join(step.queues), step.samples),
                *(_count(state, getattr(step, state)) for state in states),
                step.mean_s,
            )
            for step in steps
        ],
    )


def _count(state: str, count: int) -> int | Styled:
    is_bad = count and state in ("failed", "dead", "skipped", "cancelled")
    return Styled((str(count), STYLES[state])) if is_bad else count


def study_json(status: StudyStatus) -> dict[str, Any]:
    """A study as JSON: instants in ISO 8601 UTC, durations in seconds."""
    value: dict[str, Any] = msgspec.to_builtins(status)
    value["queued_at"] = instant(status.queued_at)
    value["ended_at"] = instant(status.ended_at) if status.ended_at is not None else None
    value["failures"] = status.failures
    return value


def instant(seconds: float) -> str:
    """Seconds since the epoch, in ISO 8601 UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration(seconds: float) -> str:
    """For people: `3.1 s`, `2:05`, `1:02:05`, `2 d 3:00:00`."""
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours}:{minutes:02}:{rest_s:02}"
    return f"{hours}:{minutes:02}:{rest_s:02}" if hours else f"{minutes}:{rest_s:02}"


def local_time(seconds: float) -> str:
    """For people: the date and time here."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def work_line(queues: Iterable[str]) -> str:
    """What to type to run samples of these queues."""
    return f"mrun work --queues {shlex.quote(','.join(queues))}"


def counted(count: int, one: str, many: str = "") -> str:
    """`1 worker`, `2 workers`, `12,000 samples`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
