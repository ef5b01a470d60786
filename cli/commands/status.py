"""`mrun status`: how far studies are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio
import click

from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.output import Output
from mrun.cli.shown import STYLES, local_time, show_study, study_json
from mrun.cli.styled import Styled
from mrun.engine.lazy import lazy
from mrun.engine.store.session import Session
from mrun.engine.store.views import StudyStatus
from mrun.engine.studies.failures import FailedSample, failures_of

if TYPE_CHECKING:
    from mrun.cli import missing_workers
else:
    # With it come all launchers, which are needed only if samples wait for a worker.
    missing_workers = lazy("mrun.cli.missing_workers")

_FAILURES_SHOWN = 10


@click.command("status")
@click.argument("study", metavar="[STUDY]", required=False)
@takes_invocation
def command(invocation: Invocation, study: str | None) -> None:
    """Show how far studies are.

    Without STUDY you see a line for each study on the server. With STUDY you see its steps, and why samples failed.
    Lines below the table name samples that wait for resources which no worker has. STUDY is an id, the beginning of
    one, a workspace, `last` or `all`.

    \b
    Examples:
      $ mrun status
      $ mrun status last
      $ mrun status k3f --json
    """

    async def run() -> tuple[list[StudyStatus], dict[str, list[FailedSample]], list[str]]:
        async with invocation.session() as session:
            if study is None:
                statuses = await session.views.studies()
                return statuses, {}, await _stranded(session, statuses)
            statuses = [await session.views.status(one) for one in await session.views.find(study)]
            failed = {one.study: await failures_of(session, one.study, _FAILURES_SHOWN) for one in statuses}
            return statuses, failed, await _stranded(session, statuses)

    statuses, failed, stranded = anyio.run(run)
    output = invocation.output
    output.data([study_json(one) | {"failed_samples": failed.get(one.study, [])} for one in statuses])
    output.ids(one.study for one in statuses)
    if study is not None:
        for one in statuses:
            show_study(output, one, failed[one.study])
    elif statuses:
        _show_studies(output, statuses)
    else:
        output.note("no studies on this server yet; mrun queue SPEC or mrun run SPEC makes one")
    for line in stranded:
        output.note(line)


async def _stranded(session: Session, statuses: Sequence[StudyStatus]) -> list[str]:
    """A line for what is ready, and is more than any living worker of its queue has."""
    ready = [one.study for one in statuses if not one.is_ended and any(step.ready for step in one.steps)]
    return await missing_workers.stranded_lines(session, await session.views.inspect(), ready) if ready else []


def _show_studies(output: Output, statuses: Sequence[StudyStatus]) -> None:
    output.table(
        ("study", "name", "state", "samples", "ended", "failed", "queued", "workspace"),
        [
            (
                *(one.study, one.name, Styled((one.state, STYLES.get(one.state, "")))),
                sum(step.samples for step in one.steps),
                sum(step.settled for step in one.steps),
                Styled((str(one.failed), STYLES["failed"] if one.failed else "")),
                *(local_time(one.queued_at), one.workspace),
            )
            for one in statuses
        ],
    )
