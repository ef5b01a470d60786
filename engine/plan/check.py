"""All that is wrong with a spec, at once, before anything is made on disk."""

from __future__ import annotations

import re

from mrun.engine.plan.compile import draft_study
from mrun.engine.plan.findings import Findings
from mrun.engine.plan.places import Place
from mrun.engine.plan.workers import check_workers
from mrun.engine.spec.model import Spec, Text, Tree

#: What escapes of YAML can bring, and no script, path or name can hold: NUL, and halves of characters.
_UNFIT = re.compile("[\0\ud800-\udfff]")


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
    _check_characters(spec.tree, noted)
    draft = draft_study(spec, place, noted)
    warnings = noted.warnings
    check_workers(spec, place, [step.name for step in draft.steps], noted)
    if findings is None:
        noted.raise_problems()
    return warnings


def _check_characters(tree: Tree, findings: Findings) -> None:
    if isinstance(tree, dict):
        for key, value in tree.items():
            _check_characters(Text(key), findings)
            _check_characters(value, findings)
    elif isinstance(tree, list):
        for item in tree:
            _check_characters(item, findings)
    elif found := _UNFIT.search(tree.value):
        what = "the character NUL" if found.group() == "\0" else "half of a character"
        findings.error(tree, f"A text holds {what}, which no script, path or name can.", hint="Remove the escape.")
