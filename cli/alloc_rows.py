"""Allocations as they are listed: rows → text, or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mrun.cli.output import Output
from mrun.cli.shown import counted, duration, instant
from mrun.engine.alloc.listing import AllocRow


def show_allocs(output: Output, rows: Sequence[AllocRow]) -> None:
    """A table, and below it what is wrong."""
    output.data([_json(row) for row in rows])
    output.ids(row.name for row in rows)
    if not rows:
        output.say("no allocations")
        return
    columns = ("name", "scheduler", "queues", "nodes", "walltime", "ready", "queued", "running", "of", "ended", "state")
    output.table(
        columns,
        [
            (
                *(row.name, row.scheduler, ",".join(row.queues), row.nodes, duration(row.walltime_s), row.ready),
                *(row.queued + row.unheard, row.running, row.max_jobs, row.ended, row.state),
            )
            for row in rows
        ],
    )
    for row in rows:
        if row.error:
            output.say(f"{row.name}: {row.error}")
        if row.retry_at is not None:
            output.say(f"{row.name}: {counted(row.failures, 'failure')} in a row; next try at {instant(row.retry_at)}")
        if row.state == "paused":
            output.note(f"'{row.name}' is paused: `mrun alloc resume {row.name}` goes on with it")
        if not row.is_cared_for:
            output.note(f"nobody keeps '{row.name}': `mrun alloc run` does")


def _json(row: AllocRow) -> dict[str, Any]:
    value = msgspec.structs.asdict(row) | {"retry_at": None if row.retry_at is None else instant(row.retry_at)}
    # What it tells beside `keeper` is for the lines below the table.
    del value["is_cared_for"]
    return value
