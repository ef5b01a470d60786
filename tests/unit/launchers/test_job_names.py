"""Jobs that are looked for by name, submitted with arguments, and refused for now or for ever."""

from __future__ import annotations

from typing import Any

import pytest

from mrun.engine.errors import LauncherAwayError, LauncherError
from mrun.launchers.flux_jobs import FluxScheduler
from mrun.launchers.lsf_jobs import LsfScheduler
from mrun.launchers.pbs_jobs import PbsScheduler
from mrun.launchers.schedulers import EndKind, Job, Output, Scheduler
from mrun.launchers.slurm_jobs import SlurmScheduler, status_of

SCHEDULERS = [SlurmScheduler(), FluxScheduler(), LsfScheduler(), PbsScheduler()]
every = pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda one: one.title)
NAME = "mrun-k2bvr939-3-1041-0"
POLICY = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, …)"


def job(**fields: Any) -> Job:
    return Job("/w s/job.sh", "/w s", "/w s/a.out", "/w s/a.err", arguments=("/w s/a.sh", "b"), name=NAME, **fields)


@every
def test_a_script_gets_its_arguments_after_all_options(scheduler: Scheduler):
    words = scheduler.submit_command(job(extra=("--extra",)))
    command = ("/w s/job.sh", "/w s/a.sh", "b")
    assert words[-3:] == command or words[-1] == "'/w s/job.sh' '/w s/a.sh' b"
    assert words.index("--extra") < len(words) - 1


@every
def test_a_job_is_looked_for_by_the_name_that_it_was_given(scheduler: Scheduler):
    asked, submitted = " ".join(scheduler.find_command(NAME)), " ".join(scheduler.submit_command(job()))
    names = [word for word in asked.replace("=", " ").split() if word in submitted.replace("=", " ").split()]
    assert any(name == NAME or (len(name) == 15 and scheduler.title == "PBS") for name in names), (asked, submitted)


@every
def test_the_newest_job_of_a_name_comes_last(scheduler: Scheduler):
    end = ".pbs" if scheduler.title == "PBS" else ""
    assert scheduler.read_found(Output(0, f"99{end}\n100{end}\n7{end}\n"), NAME) == [f"7{end}", f"99{end}", f"100{end}"]
    assert scheduler.read_found(Output(0, ""), NAME) == []
    with pytest.raises(LauncherError):
        scheduler.read_found(Output(1, "", "broken"), NAME)


def test_an_answer_of_lsf_that_there_is_none_is_no_error():
    assert LsfScheduler().read_found(Output(255, "", f"Job <{NAME}> is not found\n"), NAME) == []
    assert LsfScheduler().read_found(Output(255, "", "No job found\n"), NAME) == []


def test_names_that_are_too_long_for_pbs_differ_all_the_same():
    names = {PbsScheduler().find_command(f"mrun-k2bvr939-3-{sample}-0")[-1] for sample in range(1000)}
    assert len(names) == 1000
    assert all(len(name) <= 15 and name.isalnum() for name in names)


@pytest.mark.parametrize(
    ("rule", "passes"),
    [
        ("QOSMaxSubmitJobPerUserLimit", True),
        ("AssocMaxSubmitJobLimit", True),
        ("QOSGrpSubmitJobsLimit", True),
        ("AssocMaxWallDurationPerJobLimit", False),
        ("QOSMaxNodePerJobLimit", False),
        ("", True),
    ],
)
def test_only_limits_to_the_number_of_jobs_pass(rule, passes):
    said = f"sbatch: error: {rule}\n{POLICY}" if rule else POLICY
    with pytest.raises(LauncherError) as caught:
        SlurmScheduler().read_submitted(Output(1, "", said))
    assert isinstance(caught.value, LauncherAwayError) is passes
    assert rule in caught.value.message


def test_a_job_knows_nothing_of_the_allocation_in_which_it_was_submitted():
    given = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "9", "SLURM_CONF": "/etc/slurm.conf", "PATH": "/bin"}
    assert SlurmScheduler().job_environment(given) == {"SLURM_CONF": "/etc/slurm.conf", "PATH": "/bin"}


def test_a_job_that_had_to_make_room_was_not_cancelled_by_anybody():
    assert status_of("1", "PREEMPTED", "None", 0).end.kind is EndKind.PREEMPTED
