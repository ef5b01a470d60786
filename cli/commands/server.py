"""`mrun server`: the user's own server on this host."""

from __future__ import annotations

from typing import Any

import anyio
import click

from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.shown import counted
from mrun.engine.errors import BrokerError, NotFoundError
from mrun.engine.server.own import ServerFacts, find_own_server, start_own_server, stop_own_server
from mrun.engine.store.connect import Broker, check_server, open_broker
from mrun.engine.store.library import count_libraries


@click.group("server")
def command() -> None:
    """Start, show or stop your own server.

    `mrun queue`, `run` and `work` start it by themselves if you name no other server. These commands are for looking
    after it, and for letting other hosts reach it.

    \b
    Examples:
      $ mrun server status
      $ mrun server start --listen login1
      $ mrun server stop
    """


@command.command("start")
@click.option(
    "--listen", metavar="HOST[:PORT]", help="Serve other hosts too, with a password. [default: only this host]"
)
@takes_invocation
def start(invocation: Invocation, listen: str | None) -> None:
    """Start your own server, if it does not run.

    \b
    Examples:
      $ mrun server start
      $ mrun server start --listen 0.0.0.0:6380
    """
    facts = start_own_server(invocation.settings(), listen=listen)
    _show(invocation, facts, "started" if facts.started_now else "runs already")


@command.command("status")
@takes_invocation
def status(invocation: Invocation) -> None:
    """Show whether your own server runs, where, and how it keeps data.

    `durability` is everysec. After the first command with --durability strict it is strict, until the server is
    stopped.

    \b
    Examples:
      $ mrun server status
    """
    facts = find_own_server(invocation.settings())
    if facts is None:
        raise NotFoundError("Your own server does not run on this host.", hint="`mrun server start` starts it.")
    _show(invocation, facts, "runs")


@command.command("stop")
@takes_invocation
def stop(invocation: Invocation) -> None:
    """Stop your own server. Its studies stay on disk, and are there again when it is started.

    \b
    Examples:
      $ mrun server stop
    """
    waiting = anyio.run(_unfinished, invocation)
    was_running = stop_own_server(invocation.settings())
    output = invocation.output
    output.data({"stopped": was_running, "unfinished": waiting})
    output.say("stopped" if was_running else "it was not running")
    if waiting:
        output.note(f"{counted(len(waiting), 'study', 'studies')} not finished: {', '.join(waiting[:5])}; "
                    "workers wait, and go on when it is started again")  # fmt: skip


async def _unfinished(invocation: Invocation) -> list[str]:
    """Studies that the own server holds and that have not ended; none if it does not run, or can't tell."""
    settings = invocation.settings()
    facts = find_own_server(settings)
    if facts is None:
        return []
    try:
        async with invocation.session(broker=Broker(facts.url, "your own server")) as session:
            return [one.study for one in await session.views.studies() if not one.is_ended]
    except BrokerError:
        return []


async def _asked(facts: ServerFacts) -> dict[str, str | int | None]:
    """How it keeps what it is given now, in the words of the setting, and of how many versions it has the library.

    None: it does not tell.
    """
    try:
        client = await open_broker(Broker(facts.url, "your own server"))
        try:
            policy, libraries = (await check_server(client)).flush_policy, await count_libraries(client)
        finally:
            await client.aclose()
    except BrokerError:
        return {"durability": None, "libraries": None}
    return {"durability": "strict" if policy == "always" else policy or None, "libraries": libraries}


def _show(invocation: Invocation, facts: ServerFacts, what: str) -> None:
    rows: dict[str, Any] = {
        "url": facts.url,
        "listen_url": facts.listen_url,
        "pid": facts.pid,
        "version": facts.version,
        "binary": str(facts.binary),
        "data": str(facts.data_dir),
        "log": str(facts.log_path),
        **anyio.run(_asked, facts),
    }
    invocation.output.data(rows | {"state": what})
    invocation.output.ids([facts.url])
    invocation.output.say(f"your own server {what}")
    for name, value in rows.items():
        if value is not None:
            invocation.output.say(f"  {name:<10} {value}")
