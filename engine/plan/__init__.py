"""Spec → Plan: parameters × steps become nodes and edges; sample tables; tokens."""

from mrun.engine.plan.compile import check_plan, compile_plan
from mrun.engine.plan.expanded import text_expander
from mrun.engine.plan.model import Plan, SampleTable
from mrun.engine.plan.paths import sample_depth, sample_path
from mrun.engine.plan.places import JOURNAL_DIR, Place, place_study
from mrun.engine.plan.reader import SampleFileChanged, SampleReader
from mrun.engine.plan.render import NodeText
from mrun.engine.plan.samples import SamplesRequest, open_samples, samples_request

__all__ = [
    "JOURNAL_DIR",
    "NodeText",
    "Place",
    "Plan",
    "SampleFileChanged",
    "SampleReader",
    "SampleTable",
    "SamplesRequest",
    "check_plan",
    "compile_plan",
    "open_samples",
    "place_study",
    "sample_depth",
    "sample_path",
    "samples_request",
    "text_expander",
]
