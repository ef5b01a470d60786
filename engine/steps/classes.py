"""Draft terms → the terms of nodes, with the numbers of their classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from mrun.engine.plan.model import Terms
from mrun.engine.resources import Demand
from mrun.engine.steps.jobs import job_terms
from mrun.engine.steps.launching import Launching
from mrun.engine.steps.steps import DraftStep
from mrun.engine.steps.terms import DraftTerms

#: A study with more classes has coarser ones. Each is a stream on the server, which claims look through.
CLASSES_MOST = 64
#: Then walltimes and CPUs of one class differ by less than a fifth: so many classes for each doubling.
_CLASSES_A_DOUBLING = 4


class NodeTerms(msgspec.Struct, frozen=True):
    """The different terms of a step's nodes; and which each node has, () if there is only one."""

    different: tuple[Terms, ...]
    of_nodes: tuple[int, ...]


class Classes:
    """Numbers the classes of a study, in the order in which its steps come to them."""

    def __init__(self, steps: Sequence[DraftStep]) -> None:
        found = {(_demand(step, terms), terms.walltime_s) for step in steps for terms in step.terms.different}
        self._is_coarse = len(found) > CLASSES_MOST
        self._numbers: dict[tuple[Demand, float | None], int] = {}

    def node_terms(self, step: DraftStep, rows: Sequence[int], size: int) -> NodeTerms:
        """The terms of a step's nodes.

        Args:
            rows: the parameter row of each node.
            size: samples of each node.
        """
        picked = [step.terms.of_rows[row] for row in rows] if step.terms.of_rows else [0]
        terms_of = {number: self._terms(step, number, size) for number in dict.fromkeys(picked)}
        # What differs in the spec need not make a difference: a launcher that no script uses, for example.
        numbers: dict[Terms, int] = {}
        position = {number: numbers.setdefault(terms, len(numbers)) for number, terms in terms_of.items()}
        return NodeTerms(tuple(numbers), tuple(position[number] for number in picked) if len(numbers) > 1 else ())

    def _terms(self, step: DraftStep, number: int, size: int) -> Terms:
        draft = step.terms.different[number]
        demand = _demand(step, draft)
        settings = draft.settings
        return Terms(
            shell=draft.shell,
            max_retries=settings["max_retries"],
            retry_delay_s=settings["retry_delay"],
            walltime_s=draft.walltime_s,
            on_failure=settings["on_failure"],
            # It runs elsewhere: no worker can have died of it. And it waits in a queue: no other should wait for it.
            max_losses=0 if demand.is_job else settings["max_losses"],
            chunk=1 if demand.is_job else settings["chunk"],
            max_fails=_max_fails(settings["max_fails"], size),
            max_fails_percent=_percent(settings["max_fails"]),
            resource_class=self._class(demand, draft.walltime_s),
            demand=demand,
            script_ending=".sh" if draft.launching.batch_type == "local" else ".slurm.sh",
            texts=tuple(column[number] for column in step.scripts.columns),
            **_starting(draft.launching) if step.mode != "inside" else {},
            job=job_terms(step.job_defaults, draft) if demand.is_job else None,
        )

    def _class(self, demand: Demand, walltime_s: float | None) -> int:
        if self._is_coarse:
            demand = msgspec.structs.replace(demand, cpus=math.ceil(_coarse(demand.cpus)))
            walltime_s = None if walltime_s is None else _coarse(walltime_s)
        return self._numbers.setdefault((demand, walltime_s), len(self._numbers))


def _coarse(amount: float) -> float:
    return 2 ** (math.ceil(math.log2(amount) * _CLASSES_A_DOUBLING) / _CLASSES_A_DOUBLING)


def _demand(step: DraftStep, draft: DraftTerms) -> Demand:
    """What a sample takes of its worker: nothing of it if a scheduler gets the script as a job."""
    if step.mode == "job" and draft.launching.batch_type != "local":
        return Demand(is_job=True)
    needs = draft.launching.needs
    return Demand(needs.cores, needs.gpus, draft.named, needs.is_exclusive)


def _starting(launching: Launching) -> dict[str, Any]:
    """Who starts the scripts of a step with `mode: step` or `job`. Without a scheduler it is the worker, as always."""
    if launching.batch_type == "local":
        return {}
    return {"started_by": launching.batch_type, "needs": launching.needs}


def _max_fails(text: str | None, size: int) -> int | None:
    """A number of samples; a percentage is one of the node's, rounded down."""
    if text is None:
        return None
    percent = _percent(text)
    return int(text) if percent is None else int(size * percent / 100)


def _percent(text: str | None) -> float | None:
    return float(text[:-1]) if text is not None and text.endswith("%") else None
