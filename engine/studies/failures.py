"""Which samples failed, why, and where they ran."""

from __future__ import annotations

import msgspec

from mrun.engine.errors import MrunError
from mrun.engine.plan.model import Plan
from mrun.engine.steps.render import NodeText
from mrun.engine.store.session import Session
from mrun.engine.store.views import FailedSample as Failure
from mrun.engine.workspace.plan_file import read_plan


class FailedSample(msgspec.Struct, frozen=True):
    """A sample that failed, why, and where its files are (empty: not known any more)."""

    step: str
    node: int
    sample: int
    reason: str
    directory: str = ""
    #: The step with its parameters' labels, as its files are called.
    instance: str = ""


async def failures_of(session: Session, study: str, most: int, plan: Plan | None = None) -> list[FailedSample]:
    """Some of the samples that failed, and where they ran: by `plan`, else by the one that the workspace keeps."""
    failed = await session.views.failed_samples(study, most)
    if failed and plan is None:
        try:
            plan = read_plan((await session.views.status(study)).workspace).plan
        except MrunError:
            plan = None  # the workspace is on another machine, or gone: why it failed is told without
    return [_with_place(one, plan) for one in failed]


def _with_place(one: Failure, plan: Plan | None) -> FailedSample:
    if plan is None:
        return FailedSample(one.step, one.node, one.sample, one.reason, "")
    text = NodeText(plan, one.node)
    # A packed sample has left none.
    directory = "" if text.step.files == "packed" and text.size > 1 else text.sample_directory(one.sample)
    return FailedSample(one.step, one.node, one.sample, one.reason, directory, text.instance_name)
