"""Steps whose scripts are batch jobs (`mode: job`): what their scheduler is told, and what they can't be."""

from __future__ import annotations

import shlex

import msgspec

from mrun.engine.language.findings import Findings
from mrun.engine.language.resolve import Resolver
from mrun.engine.plan.model import JobTerms
from mrun.engine.spec.model import Spec, Step, Text
from mrun.engine.steps.terms import DraftTerms, StepTerms
from mrun.launchers.find import launcher_named


def read_job_defaults(spec: Spec, resolver: Resolver) -> JobTerms:
    """What the `batch` block says of every job of the study."""
    batch = spec.batch

    def read(text: Text | None, key: str) -> str:
        return "" if text is None else resolver.study_text(text, f"batch.{key}").strip()

    return JobTerms(
        bank=read(batch.bank, "bank"),
        queue=read(batch.queue, "queue"),
        qos=read(batch.qos, "qos"),
        reservation=read(batch.reservation, "reservation"),
    )


def as_jobs(step: Step, terms: StepTerms, findings: Findings) -> StepTerms:
    """The terms of a step with `mode: job`: text for its scheduler is for who submits, not for `$(LAUNCHER)`."""
    return msgspec.structs.replace(terms, different=tuple(_as_job(step, one, findings) for one in terms.different))


def _as_job(step: Step, draft: DraftTerms, findings: Findings) -> DraftTerms:
    launching = draft.launching
    if launching.batch_type == "local":
        return draft
    try:
        words = tuple(shlex.split(launching.job_text))
    except ValueError as error:
        place = step.run.launcher_texts.get(launching.batch_type, step.name)
        findings.error(place, f"'{launching.job_text}' can't be divided into words: {str(error).lower()}.")
        words = ()
    if launching.own_text == launching.job_text:
        launching = msgspec.structs.replace(launching, own_text="")
    return msgspec.structs.replace(draft, launching=launching, job_words=words)


def check_jobs(step: Step, terms: StepTerms, *, mode: str, is_warm: bool, findings: Findings) -> None:
    """Note what does not go with jobs, and what goes with nothing else."""
    name = step.name.value
    batch_types = {one.launching.batch_type for one in terms.different} - {"local"} if mode == "job" else set()
    for batch_type in batch_types:
        if launcher_named(batch_type).scheduler is None:
            message = f"Step '{name}' can't have 'mode: job': the launcher '{batch_type}' takes no jobs."
            findings.error(step.name, message, hint="Leave 'mode' out, or use another batch type.")
    if batch_types and is_warm:
        message = f"Step '{name}' can't be warm with 'mode: job': its scripts are not started by the worker."
        findings.error(step.name, message, hint="Leave one of them out.")
    if mode != "job" and any(one.settings["throttle"] for one in terms.different):
        findings.warn(step.name, f"'throttle' of step '{name}' changes nothing without 'mode: job'.")


def job_terms(defaults: JobTerms, draft: DraftTerms) -> JobTerms:
    """What the scheduler is told of a step's jobs in some of its rows: the step's own word comes first."""
    texts = draft.launching.texts
    return msgspec.structs.replace(
        defaults,
        qos=texts.get("qos") or defaults.qos,
        reservation=texts.get("reservation") or defaults.reservation,
        extra=draft.job_words,
        throttle=draft.settings["throttle"],
    )
