"""Opening a study again, for `mrun restart` and `mrun retry`; and saying what runs again."""

from __future__ import annotations

import anyio

from mrun.cli.invocation import Invocation
from mrun.cli.selectors import find_workspace
from mrun.cli.shown import counted, work_line
from mrun.engine.studies.reopen import Reopened, reopen
from mrun.engine.workspace.history import Selection


def reopen_selection(invocation: Invocation, selector: str, selection: Selection) -> None:
    """Open the study of a selector again for a selection of its samples."""

    async def run() -> Reopened:
        async with invocation.session(may_start=True, is_lasting=True) as session:
            workspace = await find_workspace(session, selector)
            return await reopen(session.store, session.seal, workspace, selection)

    reopened, output = anyio.run(run), invocation.output
    output.data(reopened)
    finished, queued = reopened.kept - reopened.left, reopened.queued
    left = f", {reopened.left:,} that did not finish are left" if reopened.left else ""
    if queued is None:
        output.say(f"nothing to run: {counted(finished, 'script')} finished{left}")
        return
    output.ids([queued.study])
    again = counted(reopened.again, "script")
    output.say(f"{queued.study}  {queued.name}: run {reopened.run}, {again} to run, {finished:,} finished{left}")
    output.say(f"workspace  {queued.workspace}")
    output.note(f"run it:    {work_line(queued.queues)}")
