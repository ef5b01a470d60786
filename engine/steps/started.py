"""Steps whose scripts a scheduler starts (`mode: step`): what such a script can't have."""

from __future__ import annotations

import re

from mrun.engine.errors import LauncherError
from mrun.engine.language.findings import Findings
from mrun.engine.spec.model import Step
from mrun.engine.steps.terms import StepTerms
from mrun.launchers.find import launcher_named

_LAUNCHER = re.compile(r"(?<!\\)\$\(V?LAUNCHER\)")
#: A script starts with a `#!`, wherever that is.
_ANY_SCRIPT = "/script"


def check_started(step: Step, terms: StepTerms, *, is_warm: bool, findings: Findings) -> None:
    """Note what a script that is itself started by `srun` or its like can't have or can't be."""
    name = step.name.value
    launchings = [one.launching for one in terms.different if one.launching.batch_type != "local"]
    for launching in launchings:
        try:
            launcher_named(launching.batch_type).command(_ANY_SCRIPT, launching.needs)
        except LauncherError as error:
            findings.error(step.name, f"Step '{name}' can't have 'mode: step'. {error.message}", hint=error.hint)
            return
    if not launchings:
        return
    for script in (step.run.cmd, step.run.restart):
        if script is not None and (found := _LAUNCHER.search(script.value)):
            message = (
                f"'{found[0]}' in step '{name}', which has 'mode: step', would wait for cores that its script holds."
            )
            hint = "Leave 'mode' out: the script then runs in the worker's allocation."
            findings.error(script, message, offset=found.start(), hint=hint)
    if is_warm:
        message = f"Step '{name}' can't be warm with 'mode: step': its scripts are not started by the worker."
        findings.error(step.name, message, hint="Leave one of them out.")
