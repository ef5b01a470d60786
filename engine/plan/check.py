"""All that is wrong with a spec, at once, before anything is made on disk."""

from __future__ import annotations

from mrun.engine.plan.compile import draft_study
from mrun.engine.plan.findings import Findings
from mrun.engine.plan.places import Place
from mrun.engine.plan.workers import check_workers
from mrun.engine.spec.model import Spec


def check_plan(spec: Spec, place: Place, findings: Findings | None = None) -> tuple[str, ...]:
    """Find everything that is wrong with a spec.

    Looks at the file system only to see whether env.dependencies.paths exist.

    Args:
        findings: takes what is wrong; then nothing is raised for it.

    Returns:
        Warnings, but for those about workers: they are for whoever starts them.

    Raises:
        SpecError: with all problems, in file order.
    """
    noted = Findings(spec.shown_path) if findings is None else findings
    draft = draft_study(spec, place, noted)
    warnings = noted.warnings
    check_workers(spec, place, [step.name for step in draft.steps], noted)
    if findings is None:
        noted.raise_problems()
    return warnings
