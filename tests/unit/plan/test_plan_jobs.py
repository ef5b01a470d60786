"""Steps whose scripts are batch jobs: what the plan says of them, and what they can't be."""

from __future__ import annotations

from typing import Any

import pytest

from mrun.engine.plan.model import JobTerms
from mrun.engine.spec.model import Batch, Text
from mrun.engine.steps.render import NodeText
from mrun.launchers.resources import Needs

from .specs import body, make_spec, parameter, plan, problems, step, text

SLURM = Batch(type=Text("slurm"), bank=Text("$(BANK)"), queue=Text("day"), qos=Text("low"))
VARIABLES = {"BANK": "physics"}


def planned(batch: Batch = SLURM, cmd: str = "true", **run: Any):
    return plan(make_spec(step("s", cmd, mode="job", **run), batch=batch, variables=VARIABLES))


def test_a_job_is_told_what_the_batch_block_says_and_the_step_knows_better():
    run: Any = {"resources": {"nodes": 2, "procs": 8, "qos": "high", "reservation": "r"}, "walltime": "90"}
    (made,) = planned(**run, launcher_texts={"slurm": "--mem=4G --comment='a b'"}, throttle=7).steps
    extra = ("--mem=4G", "--comment=a b")
    assert made.job == JobTerms(extra, 7, bank="physics", queue="day", qos="high", reservation="r")
    assert (made.started_by, made.needs) == ("slurm", Needs(nodes=2, procs=8, walltime_s=90))


def test_text_for_the_scheduler_is_for_who_submits_and_not_for_the_launcher():
    words = {"slurm": "--mem=4G", "lsf": "-R x"}
    assert body(planned(cmd="$(LAUNCHER) run", launcher_texts=words)) == "srun -N 1 -n 1 run"
    mixed = planned(Batch(type=Text("lsf-srun")), "$(LAUNCHER) run", launcher_texts=words)
    assert (body(mixed), mixed.steps[0].job.extra) == ("srun -N 1 -n 1 --mem=4G run", ("-R", "x"))


def test_a_job_is_one_sample_and_no_worker_dies_of_it_nor_has_to_live_as_long():
    made = planned(walltime="3600", chunk=50, max_losses=2)
    assert (made.steps[0].chunk, made.steps[0].max_losses) == (1, 0)
    assert made.class_walltimes_s() == [0.0]
    assert made.steps[0].walltime_s == 3600


def test_steps_with_and_without_jobs_are_of_different_classes():
    made = plan(make_spec(step("a", mode="job"), step("b"), batch=Batch(type=Text("slurm"))))
    assert [one.resource_class for one in made.steps] == [0, 1]
    assert [demand.is_job for demand in made.class_demands()] == [True, False]


def test_files_of_jobs_are_kept_in_full():
    spec = make_spec(step("s", "$(X)", mode="job"), batch=SLURM, variables=VARIABLES, columns=["X"],
                     samples_rest={"settings": {"files": text("packed")}})  # fmt: skip
    assert plan(spec).steps[0].files == "full"


def test_without_a_scheduler_it_is_a_step_like_any_other():
    (made,) = planned(Batch(), throttle=3).steps
    assert (made.job, made.started_by, made.demand.is_job) == (None, "", False)


def test_the_throttle_may_differ_from_row_to_row():
    one = step("s", mode="job", throttle="$(P)")
    made = plan(make_spec(one, batch=SLURM, variables=VARIABLES, parameters=(parameter("P", [1, 20]),)))
    assert [NodeText(made, node).terms.job.throttle for node in (0, 1)] == [1, 20]


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"launcher_texts": {"slurm": "--comment='a"}}, "can't be divided into words"),
        ({"warm": True}, "can't be warm with 'mode: job'"),
        ({"throttle": "$(BANK)"}, "throttle of step 's' must be a whole number"),
        ({"settings": {"mode": "$(BANK)"}}, "The mode of step 's' must be one of inside, step, job, not 'physics'."),
    ],
)
def test_what_jobs_can_not_have_is_an_error_of_the_spec(run, said):
    found = problems(make_spec(step("s", mode="job", **run), batch=SLURM, variables=VARIABLES))
    assert [said in str(problem) for problem in found] == [True], found


def test_a_throttle_that_changes_nothing_is_told():
    (warning,) = plan(make_spec(step("s", throttle=3))).warnings
    assert "'throttle' of step 's' changes nothing without 'mode: job'" in warning
