"""Queueing over a connection that may break: a study is on the server exactly once, or is not, and the user is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio

from mrun.engine.errors import BrokerAwayError, UsageError
from mrun.engine.ids import new_study_id
from mrun.engine.plan.model import Plan
from mrun.engine.store.questions import state_of
from mrun.engine.store.session import COMMAND_PATIENCE_S, Session
from mrun.engine.studies.enqueue import Opening, Order, Queued, enqueue_run, queued_study

#: Pause between two looks for a study of which it is not known whether it was queued.
_LOOK_AGAIN_S = 0.1

#: Opens a new connection, in which what is queued lasts as the settings say.
Connect = Callable[[], AbstractAsyncContextManager[Session]]


async def find_one(session: Session, selector: str, option: str) -> str:
    """The only study that a selector means.

    Raises:
        NotFoundError: there is none.
        UsageError: there are several.
    """
    studies = await session.views.find(selector)
    if len(studies) != 1:
        raise UsageError(f"{option} '{selector}' names {len(studies)} studies.", hint="Name one of them.")
    return studies[0]


async def queue_plan(connect: Connect, plan: Plan, order: Order, warnings: tuple[str, ...]) -> Queued:
    """Queue a new study. If the answer to its commit is lost, the server is asked whether it has the study.

    Raises:
        BrokerError: it was not queued; or it was, or may have been, and the message says so.
    """
    study = new_study_id()
    async with connect() as session:
        try:
            return await enqueue_run(session.store, session.seal, plan, order, Opening(study), warnings)
        except BrokerAwayError as error:
            if study not in session.store.asked_for:
                raise
            away = error
    if await _was_queued(connect, study, away):
        return queued_study(study, plan, warnings)
    raise BrokerAwayError(f"{away.message} The study was not queued.", hint=away.hint)


async def _was_queued(connect: Connect, study: str, away: BrokerAwayError) -> bool:
    """Whether a study was queued whose commit got no answer: its request, or only its answer, may have been lost.

    False: it was not, and is not any more, should the request still be on its way.

    Raises:
        BrokerError: nobody can tell now; or it is queued, and may be lost with the server's machine.
    """
    deadline: float | None = None
    while True:
        try:
            async with connect() as session:
                if await state_of(session.store, study) is not None:
                    await session.store.await_flush()
                    return True
                await session.store.purge(study)
                return False
        except BrokerAwayError:
            deadline = deadline or time.monotonic() + COMMAND_PATIENCE_S
            if time.monotonic() > deadline:
                text = f"{away.message} Whether study '{study}' was queued is not known."
                hint = (
                    f"When the server is back, `mrun status {study}` tells; only if it is not known there, queue again."
                )
                raise BrokerAwayError(text, hint=hint) from away
            await anyio.sleep(_LOOK_AGAIN_S)
