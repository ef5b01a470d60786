"""`mrun status`: how far studies are."""

from __future__ import annotations

import anyio
import click
from rich.text import Text

from mrun.cli.failures import failures_of
from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.shown import STYLES, FailedPlace, local_time, show_study, study_json
from mrun.engine.store.views import StudyStatus

_FAILURES_SHOWN = 10


@click.command("status")
@click.argument("study", metavar="[STUDY]", required=False)
@takes_invocation
def command(invocation: Invocation, study: str | None) -> None:
    """Show how far studies are.

    Without STUDY, a line for each study on the server; with it, its steps and why samples failed. STUDY is an id, the
    beginning of one, a workspace, `last` or `all`.

    \b
    Examples:
      $ mrun status
      $ mrun status last
      $ mrun status k3f --json
    """

    async def run() -> tuple[list[StudyStatus], dict[str, list[FailedPlace]]]:
        async with invocation.session() as session:
            if study is None:
                return await session.views.studies(), {}
            statuses = [await session.views.status(one) for one in await session.views.find(study)]
            failed = {one.study: await failures_of(session, one.study, _FAILURES_SHOWN) for one in statuses}
            return statuses, failed

    statuses, failed = anyio.run(run)
    output = invocation.output
    output.data([study_json(one) | {"failed_samples": failed.get(one.study, [])} for one in statuses])
    output.ids(one.study for one in statuses)
    if study is not None:
        for one in statuses:
            show_study(output, one, failed[one.study])
        return
    if not statuses:
        output.note("no studies on this server yet; mrun queue SPEC or mrun run SPEC makes one")
        return
    output.table(
        ("study", "name", "state", "samples", "ended", "failed", "queued", "workspace"),
        [
            (
                *(one.study, one.name, Text(one.state, STYLES.get(one.state, ""))),
                sum(step.samples for step in one.steps),
                sum(step.settled for step in one.steps),
                Text(str(one.failed), STYLES["failed"] if one.failed else ""),
                *(local_time(one.queued_at), one.workspace),
            )
            for one in statuses
        ],
    )
