"""`mrun cancel`: stop a study."""

from __future__ import annotations

import anyio
import click

from mrun.cli.confirm import confirm
from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.shown import counted


@click.command("cancel")
@click.argument("study", metavar="STUDY")
@click.option("--let-finish", is_flag=True, help="Let running samples finish. [default: they get SIGTERM within 3 s]")
@click.option("--yes", is_flag=True, help="Do not ask before more than one study is stopped.")
@takes_invocation
def command(invocation: Invocation, study: str, let_finish: bool, yes: bool) -> None:
    """Stop a study.

    From this moment workers claim nothing more of it. Running samples get SIGTERM, and SIGKILL ten seconds later.
    Studies that its steps have queued stop with it; mrun touches no others. Cancelling a study that has ended changes
    nothing. STUDY is an id, the beginning of one, a workspace, `last` or `all`.

    \b
    Examples:
      $ mrun cancel last
      $ mrun cancel k3f9x2gb --let-finish
    """
    output = invocation.output

    async def run() -> list[dict[str, object]]:
        async with invocation.session() as session:
            found = await session.views.find(study)
            # With the studies that its steps have queued: a chain of iterations is stopped by its first one's name.
            children = await session.views.family(*found)
            is_one = len(found) == 1
            found = list(dict.fromkeys([*found, *children]))
            if not is_one:
                confirm(output, f"stop {len(found)} studies", is_yes=yes)
            answers = []
            for one in found:
                answer = await session.store.cancel(one, is_kill=not let_finish, why="cancelled by mrun cancel")
                answers.append({"study": one, "status": answer.status, "running": answer.running})
            return answers

    answers = anyio.run(run)
    output.data(answers)
    output.ids(str(one["study"]) for one in answers)
    words = {"ok": "stopped", "ended": "had ended already", "gone": "is not known any more"}
    for one in answers:
        count = int(str(one["running"]))
        will = "may finish" if let_finish else "will be ended"
        running = f"; {counted(count, 'sample was', 'samples were')} running and {will}" if count else ""
        output.say(f"{one['study']}  {words[str(one['status'])]}{running}")
