"""Which samples failed, and where they ran."""

from __future__ import annotations

from mrun.cli.invocation import Session
from mrun.cli.shown import FailedPlace
from mrun.engine.errors import MrunError
from mrun.engine.plan.model import Plan
from mrun.engine.plan.render import NodeText


async def failures_of(session: Session, study: str, most: int, plan: Plan | None = None) -> list[FailedPlace]:
    """Some of the samples that failed; their directories are told by `plan`, or by the server as long as it has it."""
    failed = await session.views.failed_samples(study, most)
    if failed and plan is None:
        try:
            plan = await session.store.load_plan(study, session.seal)
        except MrunError:
            plan = None  # it went at the study's end, or is sealed under another key: why it failed is told without
    return [
        FailedPlace(
            *(one.step, one.node, one.sample, one.reason),
            NodeText(plan, one.node).sample_directory(one.sample) if plan else "",
        )
        for one in failed
    ]
