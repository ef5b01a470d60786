"""Which samples no worker can run, and what to type to start one that can: lines for people."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress

from mrun.cli.shown import work_line
from mrun.engine.errors import NotFoundError
from mrun.engine.resources import Amounts, amounts_text, lacking
from mrun.engine.store.demands import Stranded, class_facts, find_stranded
from mrun.engine.store.session import Session
from mrun.engine.store.views import Inspection
from mrun.engine.work.affinity import find_inventory
from mrun.engine.workers.inventory import allocation_here, inventory_here


async def unheard_lines(session: Session, found: Inspection, studies: Collection[str] | None = None) -> list[str]:
    """A line for each queue that has samples to run, of these studies or of any, and no worker."""
    rows = [row for row in found.queues if studies is None or row.study in studies]
    waiting: dict[str, list[str]] = {}
    for row in rows:
        if row.ready and not row.workers:
            waiting.setdefault(row.queue, []).append(row.study)
    lines = []
    for queue, its_studies in waiting.items():
        start = _start_line(session, queue, await _needs_on(session, queue, its_studies))
        lines.append(f"no worker listens to queue '{queue}': start one with {start}")
    return lines


async def stranded_lines(session: Session, found: Inspection, studies: Collection[str] | None = None) -> list[str]:
    """A line for what waits, of these studies or of any, and is more than any worker of its queue has."""
    return [await _stranded_line(session, one) for one in await find_stranded(session.store, found, studies)]


async def _stranded_line(session: Session, one: Stranded) -> str:
    own = [facts.amounts for facts in await class_facts(session.store, one.study) if facts.steps == one.steps]
    steps = ", ".join(f"'{name}'" for name in one.steps)
    start = _start_line(session, one.queue, _most_of(own), one.needs)
    return f"no worker on queue '{one.queue}' has what {steps} of {one.study} needs, {amounts_text(one.needs)}: {start}"


async def _needs_on(session: Session, queue: str, studies: Iterable[str]) -> Amounts:
    """What a worker must have for all that has not ended on a queue: of each resource the most that a sample takes."""
    amounts: list[Amounts] = []
    for study in studies:
        with suppress(NotFoundError):  # removed meanwhile
            steps = (await session.views.status(study)).steps
            unended = {step.name for step in steps if queue in step.queues and step.settled < step.samples}
            amounts += [one.amounts for one in await class_facts(session.store, study) if unended & set(one.steps)]
    return _most_of(amounts)


def _most_of(amounts: Iterable[Amounts]) -> dict[str, int]:
    most: dict[str, int] = {}
    for one in amounts:
        most |= {name: max(amount, most.get(name, 0)) for name, amount in one.items()}
    return most


def _start_line(session: Session, queue: str, needs: Amounts, named: Amounts | None = None) -> str:
    """What to type here to start a worker that has what is needed.

    What it would find is left out: it has all of that then, and not just what one sample needs.

    Args:
        named: what is named in any case.
    """
    allocation = allocation_here()
    found, has = find_inventory(os.environ, allocation), inventory_here(session.settings, allocation, None)
    missing = dict(named or {})
    if missing or lacking(needs, has.amounts):
        # The option stands for all that the setting says.
        missing |= {name: needs[name] for name in lacking(needs, found.amounts)}
    return f"{work_line([queue])} --resources {amounts_text(missing, ',')}" if missing else work_line([queue])
