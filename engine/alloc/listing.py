"""Allocations as they are listed: what the server has of them → rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence

import msgspec

from mrun.engine.alloc.rules import fits
from mrun.engine.errors import NotFoundError, SealError
from mrun.engine.store.allocs import FORCE, PAUSE, REMOVE, Allocs, KeptAlloc
from mrun.engine.store.backlog import Backlog, look_at_backlog
from mrun.engine.store.session import Session


class AllocRow(msgspec.Struct, frozen=True):
    """An allocation, as it is listed. Instants in seconds since the epoch.

    Attributes:
        ready: samples that fit, and wait for a worker.
        unheard: jobs that were about to be submitted when nothing more was heard.
        jobs: the scheduler's ids of those that wait or run.
        keeper: who runs `mrun alloc run`; empty: nobody does.
        is_cared_for: somebody keeps it, or has just seen to it once.
    """

    name: str
    scheduler: str
    queues: tuple[str, ...]
    nodes: int
    walltime_s: float
    ready: int
    queued: int
    running: int
    unheard: int
    ended: int
    max_jobs: int
    state: str
    failures: int
    error: str
    retry_at: float | None
    keeper: str
    jobs: tuple[str, ...]
    is_cared_for: bool


async def alloc_rows(
    session: Session, warn: Callable[[Sequence[str]], None], seen_to: Collection[str] = ()
) -> list[AllocRow]:
    """All allocations that this user's key opens; of the others it warns.

    Args:
        warn: is told of those that the key does not open.
        seen_to: names of those that this command has just looked after, and does not keep.
    """
    allocs, rows = Allocs(session.store, session.seal), []
    workers = await session.views.workers()
    for name in await allocs.names():
        try:
            kept: KeptAlloc = await allocs.look(name)
        except NotFoundError:
            continue
        except SealError as error:
            warn([error.message])
            continue
        fitting = functools.partial(fits, kept.terms, kept.state)
        backlog = await look_at_backlog(session.store, kept.terms.queues, workers, kept.now_ms, fitting)
        rows.append(_row(kept, backlog, is_cared_for=bool(kept.keeper) or name in seen_to))
    return rows


def _row(kept: KeptAlloc, backlog: Backlog, *, is_cared_for: bool) -> AllocRow:
    terms, state = kept.terms, kept.state
    jobs = [job for job in state.jobs if job.job]
    is_waiting = kept.now_ms < state.retry_at_ms and not state.is_paused
    return AllocRow(
        name=terms.name,
        scheduler=terms.kind,
        queues=terms.queues,
        nodes=terms.nodes,
        walltime_s=terms.walltime_s,
        ready=backlog.samples,
        queued=sum(not job.is_running for job in jobs),
        running=sum(job.is_running for job in jobs),
        unheard=len(state.jobs) - len(jobs),
        ended=state.ended,
        max_jobs=terms.max_jobs,
        state=_state_word(kept, is_failing=is_waiting, is_cared_for=is_cared_for),
        failures=state.failures,
        error=state.error,
        retry_at=state.retry_at_ms / 1000 if is_waiting else None,
        keeper=kept.keeper,
        jobs=tuple(job.job for job in jobs),
        is_cared_for=is_cared_for,
    )


def _state_word(kept: KeptAlloc, *, is_failing: bool, is_cared_for: bool) -> str:
    state = kept.state
    words = {
        "removing": kept.request in (REMOVE, FORCE),
        "paused": kept.request == PAUSE or state.is_paused,
        "failing": is_failing,
        "not kept": not is_cared_for,
        "working": any(job.is_running for job in state.jobs),
        "waiting": bool(state.jobs),
    }
    return next((word for word, is_so in words.items() if is_so), "idle")
