"""How many jobs an allocation wants, what fits them, and how it backs off."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from mrun.engine.alloc import rules
from mrun.engine.alloc.jobs import JobPlace, needs_of, worker_words, write_job
from mrun.engine.alloc.observed import ObservedJob, after_look
from mrun.engine.store.allocs import AllocJob, AllocState, AllocTerms
from mrun.engine.store.backlog import Backlog, ClassNeeds
from mrun.engine.store.views import WorkerStatus
from mrun.launchers.schedulers import End, EndKind, JobState, JobStatus

NOW_MS = 1_000_000
PLAIN = {"slots": 1, "cpus": 1}


def terms(**fields) -> AllocTerms:
    words: Any = {"name": "sim", "mark": "ab12", "kind": "slurm", "queues": ("sim",), "walltime_s": 3600.0, "cores": 4}
    return AllocTerms(**words | fields)


def ready(samples: int, **fields) -> Backlog:
    return Backlog(**{"ready": samples, "is_stranded": False, "is_unfinished": True} | fields)


def state(*jobs: AllocJob, **fields) -> AllocState:
    return AllocState(jobs=jobs, last_number=len(jobs), **fields)


def waiting(number: int = 1) -> AllocJob:
    return AllocJob(number, NOW_MS, f"{number}")


def working(number: int = 1) -> AllocJob:
    return AllocJob(number, NOW_MS, f"{number}", is_running=True, has_worked=True)


# ------------------------------------------------------------------------------------------------- how many


@pytest.mark.parametrize(
    ("samples", "jobs", "asked", "more"),
    [
        # Four slots a job, at most four jobs.
        (0, (), {}, 0),
        (1, (), {}, 1),
        (4, (), {}, 1),
        (5, (), {}, 2),
        (100, (), {}, 4),
        (100, (), {"max_jobs": 2}, 2),
        # A job that is to come has room for four; one that works has none.
        (4, (waiting(),), {}, 0),
        (5, (waiting(),), {}, 1),
        (4, (working(),), {}, 1),
        (100, (waiting(1), working(2)), {"max_jobs": 2}, 0),
        # Each job must be worth it.
        (9, (), {"min_backlog": 10}, 0),
        (10, (), {"min_backlog": 10}, 1),
        (13, (), {"min_backlog": 10}, 1),
        (14, (), {"min_backlog": 10}, 2),
        # Two nodes have twice the slots, and --slots comes before cores.
        (9, (), {"nodes": 2}, 2),
        (9, (), {"slots": 9}, 1),
    ],
)
def test_as_many_jobs_as_the_samples_are_worth(samples, jobs, asked, more):
    assert rules.jobs_wanted(terms(**asked), state(*jobs), ready(samples), NOW_MS) == more


def test_one_job_until_a_worker_has_told_how_many_slots_it_has():
    whole_nodes = terms(cores=0)
    assert rules.jobs_wanted(whole_nodes, state(), ready(100), NOW_MS) == 1
    assert rules.jobs_wanted(whole_nodes, state(waiting()), ready(100), NOW_MS) == 0
    assert rules.jobs_wanted(whole_nodes, state(working(), slots=32), ready(100), NOW_MS) == 3


def test_what_waits_for_any_worker_is_worth_a_job_however_little_it_is():
    stranded = ready(0, is_stranded=True)
    assert rules.jobs_wanted(terms(min_backlog=50), state(), stranded, NOW_MS) == 1
    assert rules.jobs_wanted(terms(min_backlog=50), state(waiting()), stranded, NOW_MS) == 0


def test_nothing_is_submitted_after_a_failure_until_its_time_has_come():
    failed = rules.with_failure(state(), "no", NOW_MS)
    assert rules.jobs_wanted(terms(), failed, ready(9), failed.retry_at_ms - 1) == 0
    assert rules.jobs_wanted(terms(), failed, ready(9), failed.retry_at_ms) > 0


def test_failures_in_a_row_back_off_and_then_pause():
    one, pauses_s = state(), []
    for _ in range(rules.FAILURES_MOST):
        assert not one.is_paused
        one = rules.with_failure(one, "no", NOW_MS)
        pauses_s.append((one.retry_at_ms - NOW_MS) / 1000)
    assert pauses_s == [10, 20, 40, 80, 160]
    assert one.is_paused
    assert rules.jobs_wanted(terms(), one, ready(9), NOW_MS * 1000) == 0
    assert rules.without_failures(one) == state()


def test_a_scheduler_that_is_away_pauses_nothing_and_the_wait_has_a_limit():
    one = state()
    for _ in range(30):
        one = rules.with_failure(one, "away", NOW_MS, is_passing=True)
    assert not one.is_paused
    assert one.retry_at_ms == NOW_MS + 600_000


# ------------------------------------------------------------------------------------------------- what fits


@pytest.mark.parametrize(
    ("walltime_s", "amounts", "asked", "found", "does_fit"),
    [
        (0, PLAIN, {}, "", True),
        (3540, PLAIN, {}, "", True),
        # It takes a while until a worker has begun.
        (3541, PLAIN, {}, "", False),
        # CPUs are only counted where they were told; otherwise a sample takes what there is.
        (0, {"cpus": 64}, {}, "cpus=4", True),
        (0, {"cpus": 64}, {"resources": "cpus=4"}, "", False),
        # GPUs of whole nodes are not known before a worker was there.
        (0, PLAIN | {"gpus": 2}, {}, "", True),
        (0, PLAIN | {"gpus": 2}, {}, "cpus=4", False),
        (0, PLAIN | {"gpus": 2}, {}, "cpus=4,gpus=1", False),
        (0, PLAIN | {"gpus": 2}, {"gpus": 1}, "", False),
        (0, PLAIN | {"gpus": 2}, {"resources": "gpus=2"}, "", True),
        # What users have given a name is where they say it is.
        (0, PLAIN | {"license": 1}, {}, "", False),
        (0, PLAIN | {"license": 1}, {"resources": "license=2"}, "", True),
        # Samples that are jobs themselves need no allocation.
        (0, {"jobs": 1}, {}, "", False),
    ],
)
def test_samples_fit_by_walltime_and_resources(walltime_s, amounts, asked, found, does_fit):
    needs = ClassNeeds(walltime_s, amounts)
    assert rules.fits(terms(**asked), state(resources=found), needs) is does_fit


# ------------------------------------------------------------------------------------------------- too many


def test_waiting_jobs_are_superfluous_when_nothing_has_waited_for_them_for_the_idle_time():
    asked = terms(idle_exit_s=300.0)
    idle = rules.with_idleness(asked, state(waiting()), ready(0), NOW_MS)
    assert not rules.is_superfluous(asked, idle, ready(0), NOW_MS + 299_000)
    assert rules.is_superfluous(asked, idle, ready(0), NOW_MS + 300_000)
    # Work that comes meanwhile begins the time anew.
    again = rules.with_idleness(asked, idle, ready(1), NOW_MS + 100_000)
    assert again.idle_since_ms == 0
    # Where no study is left, nothing is to come.
    assert rules.is_superfluous(asked, idle, ready(0, is_unfinished=False), NOW_MS)


# ------------------------------------------------------------------------------------------------- what became of them


def ended(kind: EndKind, code: int = -1, job: AllocJob | None = None, printed: str = "") -> ObservedJob:
    one = job or waiting()
    return ObservedJob(one, JobStatus(one.job, JobState.ENDED, end=End(kind, code=code)), (), printed)


@pytest.mark.parametrize(
    ("seen", "is_failure"),
    [
        (ended(EndKind.EXITED, 0), False),
        (ended(EndKind.EXITED, 127), True),
        (ended(EndKind.EXITED, 6, working()), True),
        (ended(EndKind.TIMED_OUT), True),
        (ended(EndKind.TIMED_OUT, job=working()), False),
        (ended(EndKind.NODE_FAILED, job=working()), False),
        (ended(EndKind.REFUSED), True),
        (ended(EndKind.CANCELLED), False),
    ],
)
def test_a_job_that_failed_before_it_worked_or_by_its_code_is_a_failure(seen, is_failure):
    after = after_look(state(seen.job), [seen], NOW_MS)
    assert (after.jobs, after.ended, after.failures) == ((), 1, int(is_failure))


def test_jobs_that_failed_together_are_one_failure_with_what_the_last_one_printed():
    seen = [ended(EndKind.EXITED, 1, waiting(1)), ended(EndKind.EXITED, 2, waiting(2), "no such module")]
    after = after_look(state(waiting(1), waiting(2)), seen, NOW_MS)
    assert after.failures == 1
    assert after.error == "Job 2 ended with exit code 2. It printed last: no such module"


def test_a_good_end_forgets_failures_and_a_worker_tells_what_a_job_has():
    worker = WorkerStatus("w", "n1", 1, ("sim",), 8, 0, False, 1.0, 1.0, "mrun-alloc-sim-ab12-1", "cpus=8,gpus=1")
    failed = rules.with_failure(state(waiting()), "no", NOW_MS)
    running = JobStatus("1", JobState.RUNNING)
    after = after_look(failed, [ObservedJob(waiting(), running, (worker, worker))], NOW_MS)
    assert (after.slots, after.resources, after.error, after.failures) == (16, "cpus=8,gpus=1", "", 1)
    assert after.jobs[0].has_worked
    assert after_look(after, [ended(EndKind.EXITED, 0, after.jobs[0])], NOW_MS).failures == 0


def test_a_job_that_its_scheduler_has_forgotten_has_ended_but_not_a_new_one():
    unknown = JobStatus("1", JobState.UNKNOWN)
    assert after_look(state(waiting()), [ObservedJob(waiting(), unknown)], NOW_MS + 1000).jobs == (waiting(),)
    assert after_look(state(waiting()), [ObservedJob(waiting(), unknown)], NOW_MS + 61_000).jobs == ()


# ------------------------------------------------------------------------------------------------- its job


def test_a_job_works_on_all_of_its_nodes_and_leaves_when_it_is_idle(tmp_path: Path):
    words = shlex.join(worker_words(terms(nodes=2, slots=3, idle_exit_s=90.0), "mrun", 7))
    for part in ("--queues sim", "--nodes all", "--slots 3", "--idle-exit 90", "--name mrun-alloc-sim-ab12-7"):
        assert part in words
    assert "--nodes 2" in shlex.join(worker_words(terms(kind="pbs", nodes=2), "mrun", 7))
    assert "--nodes" not in worker_words(terms(), "mrun", 7)


def test_without_cores_a_job_has_whole_nodes(tmp_path: Path):
    assert needs_of(terms(nodes=2, cores=0)).is_exclusive
    # LSF gives nothing but whole nodes, and may refuse who asks for them.
    assert not needs_of(terms(kind="lsf", cores=0)).is_exclusive
    some = needs_of(terms(nodes=2, cores=8, gpus=2))
    assert (some.nodes, some.procs, some.cores, some.gpus, some.is_exclusive) == (2, 2, 16, 4, False)


def test_the_script_of_a_job_holds_no_variable_and_only_its_user_reads_it(tmp_path: Path):
    place = JobPlace(tmp_path / "alloc", tmp_path, "mrun", {"MRUN_BROKER": "redis://host:1", "MRUN_PASSWORD": "secret"})
    job = write_job(terms(), place, 3)
    script = Path(job.script_path)
    assert "secret" not in script.read_text()
    assert script.stat().st_mode & 0o077 == 0
    assert script.parent.stat().st_mode & 0o077 == 0
    assert (job.name, job.directory) == ("mrun-alloc-sim-ab12-3", str(tmp_path))
