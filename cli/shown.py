"""Records to text: how studies, steps and failures look, in every command that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from mrun.cli.output import Output
from mrun.engine.store.views import FailedSample, StudyStatus

STEP_COLUMNS = (
    *("step", "queue", "nodes", "samples", "waiting", "ready", "running", "retrying", "finished", "failed"),
    *("dead", "skipped", "cancelled", "mean s"),
)


def show_study(output: Output, status: StudyStatus, failed: Sequence[FailedSample] = ()) -> None:
    """A study with its steps, and some of its failures."""
    why = f" ({status.why})" if status.why and status.state != "finished" else ""
    output.say(f"{status.study}  {status.name}  {status.state}{why}")
    output.say(f"workspace  {status.workspace}")
    output.table(
        STEP_COLUMNS,
        [
            (
                *(step.name, ",".join(step.queues), step.nodes, step.samples, step.waiting, step.ready, step.running),
                *(step.retrying, step.finished, step.failed, step.dead, step.skipped, step.cancelled),
                None if step.mean_s is None else round(step.mean_s, 3),
            )
            for step in status.steps
        ],
    )
    for one in failed:
        output.say(f"failed: {one.step} sample {one.sample} (node {one.node}): {one.reason}")


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
