"""What a user names: studies, workspaces, samples, queues; and commands that do the same to each study they mean."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from mrun.cli.invocation import Invocation
from mrun.engine.errors import NotFoundError, UsageError
from mrun.engine.language.places import JOURNAL_DIR
from mrun.engine.plan.model import Plan
from mrun.engine.store.session import Session
from mrun.engine.studies.reopen import workspace_of
from mrun.engine.workspace.plan_file import read_plan

#: Answers of the store that mean the same for every command.
_ANSWERS = {"gone": "is not known any more", "ended": "has ended already", "busy": "has not ended"}


def change_studies(
    invocation: Invocation, selector: str, change: Callable[[Session, str], Awaitable[str]], done: str
) -> None:
    """Change every study that a selector means, and say what came of it.

    Args:
        done: the end of the sentence about a study that was changed.

    Raises:
        NotFoundError: the selector means none.
    """

    async def run() -> dict[str, str]:
        async with invocation.session() as session:
            return {study: await change(session, study) for study in await session.views.find(selector)}

    answers, output = anyio.run(run), invocation.output
    output.data([{"study": study, "status": answer} for study, answer in answers.items()])
    output.ids(answers)
    for study, answer in answers.items():
        output.say(f"{study}  {({**_ANSWERS, 'ok': done})[answer]}")


async def find_workspace(session: Session, selector: str) -> str:
    """The workspace of a selector: of a study that the server knows, or the path itself.

    Raises:
        NotFoundError: it is neither.
        UsageError: it means several studies.
    """
    try:
        studies = await session.views.find(selector)
        if len(studies) != 1:
            raise UsageError(f"'{selector}' means {len(studies)} studies.", hint="Name one of them.")
        return workspace_of(selector, (await session.views.status(studies[0])).workspace)
    except NotFoundError:
        return workspace_of(selector, None)


def plan_of(invocation: Invocation, selector: str) -> Plan:
    """The plan that a study's workspace holds. A server is asked only if the selector is no workspace itself.

    Raises:
        NotFoundError: there is no such study, or its workspace is gone.
    """
    if Path(selector, JOURNAL_DIR).is_dir():
        return read_plan(selector).plan

    async def find() -> str:
        async with invocation.session() as session:
            return await find_workspace(session, selector)

    return read_plan(anyio.run(find)).plan


def parse_ranges(text: str) -> list[tuple[int, int]]:
    """`1-10,17` as half-open ranges [(1, 11), (17, 18)].

    Raises:
        UsageError: it is not a list of numbers and ranges.
    """
    ranges = []
    for word in text.split(","):
        low, dash, high = word.strip().partition("-")
        if not low.isdigit() or (dash and not high.isdigit()) or (dash and int(high) < int(low)):
            raise UsageError(f"'{word}' is no number and no range.", hint="For example: --samples 1-10,17")
        ranges.append((int(low), int(high or low) + 1))
    return ranges


def parse_names(text: str) -> tuple[str, ...]:
    """`sim, train` as ("sim", "train"): each name once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
