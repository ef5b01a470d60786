"""Doing the same to every study that a selector means, and saying what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from mrun.cli.invocation import Session
from mrun.cli.output import Output

_WORDS = {"gone": "is not known any more", "ended": "has ended already", "busy": "has not ended"}


class Answers(msgspec.Struct, frozen=True):
    """For each study the store's word."""

    by_study: dict[str, str]

    def show(self, output: Output, words: Mapping[str, str]) -> None:
        """Print them; `words` are the sentences' ends for the answers that are this command's own."""
        output.data([{"study": study, "status": answer} for study, answer in self.by_study.items()])
        output.ids(self.by_study)
        for study, answer in self.by_study.items():
            output.say(f"{study}  {({**_WORDS, **words})[answer]}")


async def answer_for_each(session: Session, selector: str, change: Callable[[Session, str], Awaitable[str]]) -> Answers:
    """Change every study that a selector means. Raises NotFoundError if it means none."""
    return Answers({study: await change(session, study) for study in await session.views.find(selector)})
