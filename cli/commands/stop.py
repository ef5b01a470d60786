"""`mrun stop`: ask workers to drain."""

from __future__ import annotations

import anyio
import click

from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.selectors import parse_names
from mrun.cli.shown import counted
from mrun.engine.errors import NotFoundError
from mrun.engine.store.views import WorkerStatus


@click.command("stop")
@click.argument("workers", metavar="[WORKER …]", nargs=-1)
@click.option("--queues", metavar="Q1,Q2", default="", help="Only workers that listen to one of these. [default: all]")
@click.option("--wait", "is_waiting", is_flag=True, help="Return when these workers have exited.")
@takes_invocation
def command(invocation: Invocation, workers: tuple[str, ...], queues: str, is_waiting: bool) -> None:
    """Ask workers to finish what they run and exit.

    These workers claim nothing more, hand back what they have not started, and exit when their running samples have
    ended. WORKER is a name that `mrun inspect` shows, or the beginning of one.

    \b
    Examples:
      $ mrun stop
      $ mrun stop --queues sim --wait
      $ mrun stop node17
    """
    output = invocation.output
    wanted_queues = set(parse_names(queues))

    def is_meant(one: WorkerStatus) -> bool:
        by_name = not workers or any(one.worker.startswith(name) for name in workers)
        return by_name and (not wanted_queues or bool(wanted_queues & set(one.queues)))

    async def run() -> list[str]:
        async with invocation.session() as session:
            found = [one.worker for one in (await session.views.inspect()).workers if is_meant(one)]
            if workers and not found:
                raise NotFoundError(f"No worker is called '{workers[0]}'.", hint="`mrun inspect` lists them.")
            if found:
                await session.store.stop(found)
            while is_waiting and set(found) & set(await session.views.worker_names()):  # noqa: ASYNC110 - no event of ours
                await anyio.sleep(0.2)
            return found

    found = anyio.run(run)
    output.data({"workers": found})
    output.ids(found)
    output.say(f"{counted(len(found), 'worker')} {'stopped' if is_waiting else 'asked to stop'}")
    for name in found:
        output.say(f"  {name}")
