"""Which samples failed, and where they ran."""

from __future__ import annotations

from mrun.cli.shown import FailedPlace
from mrun.engine.errors import MrunError
from mrun.engine.plan.model import Plan
from mrun.engine.plan.render import NodeText
from mrun.engine.store.session import Session
from mrun.engine.store.views import FailedSample
from mrun.engine.workspace.plan_file import read_kept


async def failures_of(session: Session, study: str, most: int, plan: Plan | None = None) -> list[FailedPlace]:
    """Some of the samples that failed, and where they ran: by `plan`, else by the one that the workspace keeps."""
    failed = await session.views.failed_samples(study, most)
    if failed and plan is None:
        try:
            plan = read_kept((await session.views.status(study)).workspace).plan
        except MrunError:
            plan = None  # the workspace is on another machine, or gone: why it failed is told without
    return [_place(one, plan) for one in failed]


def _place(one: FailedSample, plan: Plan | None) -> FailedPlace:
    if plan is None:
        return FailedPlace(one.step, one.node, one.sample, one.reason, "")
    text = NodeText(plan, one.node)
    # A packed sample has left none.
    directory = "" if text.step.files == "packed" and text.size > 1 else text.sample_directory(one.sample)
    return FailedPlace(one.step, one.node, one.sample, one.reason, directory, text.instance_name)
