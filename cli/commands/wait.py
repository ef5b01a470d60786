"""`mrun wait`: until a study has ended."""

from __future__ import annotations

import sys
import time

import anyio
import click

from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.missing_workers import unheard_lines
from mrun.cli.shown import show_study, study_json
from mrun.cli.waiting import Display, exit_code_of, wait_for_end
from mrun.engine.errors import ExitCode
from mrun.engine.store.views import StudyStatus
from mrun.engine.studies.failures import FailedSample, failures_of

_FAILURES_SHOWN = 10


@click.command("wait")
@click.argument("study", metavar="STUDY")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Give up after so long. [default: never]",
)
@takes_invocation
def command(invocation: Invocation, study: str, timeout_s: float | None) -> None:
    """Wait for the end of a study.

    This command runs nothing: workers do that. The exit code is 0 if every sample finished, 7 if some did not, and 130
    if the time of --timeout was over first. STUDY is an id, the beginning of one, a workspace, `last` or `all`.

    \b
    Examples:
      $ mrun wait last
      $ mrun wait k3f9x2gb --timeout 3600
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s

    async def run() -> tuple[list[StudyStatus], dict[str, list[FailedSample]]]:
        async with invocation.session() as session:
            found = await session.views.find(study)

            async def studies() -> list[str]:
                return found

            for note in await unheard_lines(session, await session.views.inspect(), found):
                invocation.output.note(note)
            with Display(invocation.output) as display:
                ended = await wait_for_end(
                    session, studies, display, lambda: deadline is None or time.monotonic() < deadline
                )
            return ended, {one.study: await failures_of(session, one.study, _FAILURES_SHOWN) for one in ended}

    statuses, failed = anyio.run(run)
    output = invocation.output
    output.data([study_json(status) | {"failed_samples": failed[status.study]} for status in statuses])
    output.ids(status.study for status in statuses)
    for status in statuses:
        show_study(output, status, failed[status.study])
    if not all(status.is_ended for status in statuses):
        output.note(f"not ended after {timeout_s:g} s; it goes on")
        sys.exit(ExitCode.INTERRUPTED)
    sys.exit(exit_code_of(statuses))
