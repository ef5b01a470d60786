"""`mrun inspect`: what is in the queues, and who works on it."""

from __future__ import annotations

import anyio
import click

from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.missing_workers import stranded_lines, unheard_lines
from mrun.cli.output import Output
from mrun.engine.store.views import Inspection


@click.command("inspect")
@takes_invocation
def command(invocation: Invocation) -> None:
    """Show queues and workers.

    For each queue and study: samples that are ready for a worker, running, retrying (waiting for their next attempt) or
    dead (lost too often); then the Redis stream that holds them: its entries, those pending (delivered to a worker and
    not yet acknowledged), for how long the oldest of them, its consumers; and the workers that listen.

    For each worker: what it has of CPUs, GPUs and other resources; the ranges of samples it has claimed; how long it is
    believed alive without a sign of life (lease), what is left of that, and whether it is draining (finishing what
    runs, taking nothing more).

    \b
    Examples:
      $ mrun inspect
      $ mrun inspect --json
    """

    async def run() -> tuple[Inspection, list[str]]:
        async with invocation.session() as session:
            found = await session.views.inspect()
            return found, [*await unheard_lines(session, found), *await stranded_lines(session, found)]

    found, missing = anyio.run(run)
    output = invocation.output
    output.data(found)
    output.ids(row.queue for row in found.queues)
    if found.queues:
        _show_queues(output, found)
    else:
        output.say("no queue holds samples")
    output.say()
    if found.workers:
        _show_workers(output, found)
    else:
        output.say("no workers")
    for note in missing:
        output.note(note)


def _show_queues(output: Output, found: Inspection) -> None:
    output.table(
        ("queue", "study", "name", "state", "ready", "running", "retrying", "dead", "entries", "pending", "oldest s",
         "consumers", "workers"),
        [
            (
                *(row.queue, row.study, row.name, row.state, row.ready, row.running, row.retrying, row.dead),
                *(row.entries, row.pending, row.oldest_pending_s, row.consumers, row.workers),
            )
            for row in found.queues
        ],
    )  # fmt: skip


def _show_workers(output: Output, found: Inspection) -> None:
    output.table(
        ("worker", "name", "host", "pid", "queues", "slots", "resources", "claims", "lease s", "left s", "draining"),
        [
            (
                *(one.worker, one.name, one.host, one.pid, ",".join(one.queues), one.slots, one.resources, one.claims),
                *(round(one.lease_s), round(one.lease_left_s), "yes" if one.is_draining else ""),
            )
            for one in found.workers
        ],
    )
