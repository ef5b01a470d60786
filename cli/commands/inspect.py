"""`mrun inspect`: what is in the queues, and who works on it."""

from __future__ import annotations

import anyio
import click

from mrun.cli.invocation import Invocation
from mrun.engine.store.views import Inspection


@click.command("inspect")
@click.pass_obj
def command(invocation: Invocation) -> None:
    """Show queues and workers.

    For each queue and study: samples that are ready, running, retrying or dead; the stream's entries, how many of them
    are pending (delivered, not yet acknowledged), the age of the oldest of those, consumers, and workers that listen.

    \b
    Examples:
      $ mrun inspect
      $ mrun --json inspect
    """

    async def run() -> Inspection:
        async with invocation.session() as session:
            return await session.views.inspect()

    found = anyio.run(run)
    output = invocation.output
    output.data(found)
    output.ids(row.queue for row in found.queues)
    output.table(
        ("queue", "study", "name", "state", "ready", "running", "retrying", "dead", "entries", "pending", "oldest s",
         "consumers", "workers"),
        [
            (
                *(row.queue, row.study, row.name, row.state, row.ready, row.running, row.retrying, row.dead),
                *(row.entries, row.pending),
                None if row.oldest_pending_s is None else round(row.oldest_pending_s, 1),
                *(row.consumers, row.workers),
            )
            for row in found.queues
        ],
    )  # fmt: skip
    output.say()
    output.table(
        ("worker", "host", "pid", "queues", "slots", "claims", "lease s", "left s", "draining"),
        [
            (
                *(one.worker, one.host, one.pid, ",".join(one.queues), one.slots, one.claims, one.lease_s),
                *(round(one.lease_left_s, 1), "yes" if one.is_draining else ""),
            )
            for one in found.workers
        ],
    )
    for row in found.queues:
        if row.ready and not row.workers:
            output.note(f"nobody listens to queue '{row.queue}': mrun work --queues {row.queue}")
