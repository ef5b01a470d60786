"""`mode: job` without a real scheduler: workers, and fakes of Flux, LSF and PBS that run jobs at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TestServer, wait_until
from tests.lab import BIN, Lab
from tests.launchers.daemon import Daemon
from tests.launchers.kinds import faked

SPEC = """
    description: {{name: jobs, description: scripts that are batch jobs}}
    batch: {{type: {type}, {batch}}}
    study:
        - name: a
          description: d
          run: {{mode: job, cmd: '{cmd} # $(X)', {options}}}
    merlin: {{samples: {{file: samples.npy, column_labels: [X], files: packed}}}}
"""
#: How a job is cancelled by somebody else.
CANCEL = {"flux": ("flux", "cancel"), "lsf": ("bkill",), "pbs": ("qdel",)}
TITLES = {"flux": "Flux", "lsf": "LSF", "pbs": "PBS"}
#: Notes that it runs, and ends when somebody says go.
UNTIL_GO = "echo ${MRUN_SAMPLE_ID} >> $LEDGER/ran; until [ -e $LEDGER/go ]; do sleep 0.05; done"


class JobLab(Lab):
    """A lab with a scheduler."""

    def __init__(self, directory: Path, server: TestServer, kind: str) -> None:
        super().__init__(directory, server)
        self.kind = kind
        fake = faked(kind, directory).environment
        self.fake_dir = Path(fake["FAKE_DIR"])
        self.daemon = Daemon(self.fake_dir)
        bins = f"{directory / 'bin'}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}"
        self.environment |= {name: fake[name] for name in ("FAKE_DIR", "FLUX_URI") if name in fake} | {"PATH": bins}

    def queue_jobs(self, cmd: str, samples: int = 1, options: str = "procs: 1", batch: str = "") -> str:
        np.save(self.directory / "samples.npy", np.arange(float(samples)))
        spec = SPEC.format(type=self.kind, cmd=cmd, options=options, batch=batch)
        return self.queue(self.spec(spec))

    def work_on_jobs(self, *words: str) -> subprocess.Popen[bytes]:
        return self.work("--queues", "merlin", "--lease", "2", *words)

    def jobs(self) -> list[Path]:
        """What the fake keeps of each job that was submitted."""
        return list(self.fake_dir.glob(f"{self.kind}.*"))

    def records(self, study: str) -> list[Path]:
        return list(Path(self.study(study)["workspace"]).rglob("*.job"))

    def id_of(self, record: Path) -> str:
        return str(json.loads(record.read_text())["job"])

    def go(self) -> None:
        (self.ledger_dir / "go").touch()


@pytest.fixture
def lab(request: pytest.FixtureRequest, tmp_path: Path, own_server: TestServer) -> Iterator[JobLab]:
    lab = JobLab(tmp_path, own_server, getattr(request, "param", "flux"))
    yield lab
    lab.go()
    lab.stop_workers()
    lab.daemon.stop()
    lab.close()


def only(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lab", kinds, indirect=True)


every = only("flux", "lsf", "pbs")


def ran_once(samples: int) -> Counter[str]:
    return Counter(map(str, range(samples)))


@every
def test_every_sample_is_a_job_and_its_end_is_the_scripts(lab):
    # Given samples that end with codes 0 and 1, and by a signal
    cmd = "echo ${MRUN_SAMPLE_ID} >> $LEDGER/ran; [ ${MRUN_SAMPLE_ID} = 2 ] && kill -9 $$; exit ${MRUN_SAMPLE_ID}"
    study = lab.queue_jobs(cmd, 3)
    # When a worker has submitted them
    lab.work_on_jobs("--exit-when-done")
    status = lab.wait_for_end(study, 30)
    # Then each was one job, and is accounted like any other
    assert lab.ledger("ran") == ran_once(3)
    assert len(lab.jobs()) == 3
    assert status["by_step"]["a"]["finished"] == 1
    assert {failure["reason"] for failure in status["failed_samples"]} == {"exit code 1", "killed by SIGKILL"}
    assert len(list(Path(status["workspace"]).rglob("MERLIN_FINISHED"))) == 1


def test_a_killed_engine_leaves_its_jobs_and_the_next_worker_awaits_them(lab):
    # Given jobs that run
    study = lab.queue_jobs(UNTIL_GO, 3)
    first = lab.work_on_jobs()
    wait_until(lambda: lab.ledger("ran") == ran_once(3), "the jobs run")
    # When the worker's engine is killed, its guard ends too, and another worker comes
    os.kill(lab.engine_of(first), signal.SIGKILL)
    first.wait(timeout=30)
    lab.work_on_jobs("--exit-when-done")
    wait_until(lambda: "job_found" in lab.logs(), "it finds a job", 20)
    lab.go()
    # Then no job was submitted twice
    status = lab.wait_for_end(study, 30)
    assert status["by_step"]["a"]["finished"] == 3
    assert lab.ledger("ran") == ran_once(3)
    assert len(lab.jobs()) == 3


@pytest.mark.slow
@only("pbs")
def test_a_job_whose_id_was_not_noted_is_found_by_its_name(lab):
    # Given a worker that dies after it has submitted a job, and before it has noted its id
    study = lab.queue_jobs(UNTIL_GO)
    first = lab.work_on_jobs()
    wait_until(lambda: lab.ledger("ran"), "the job runs")
    (record,) = lab.records(study)
    wait_until(lambda: lab.id_of(record), "its id is noted")
    os.kill(lab.engine_of(first), signal.SIGKILL)
    first.wait(timeout=30)
    noted = record.read_text()
    record.write_text(json.dumps(json.loads(noted) | {"job": ""}))
    # When another one comes
    lab.work_on_jobs("--exit-when-done")
    # Then it finds the job by its name
    wait_until(lambda: record.read_text() == noted, "the id is noted again", 20)
    lab.go()
    assert lab.wait_for_end(study, 30)["by_step"]["a"]["finished"] == 1
    assert lab.ledger("ran") == ran_once(1)


@pytest.mark.slow
def test_a_job_that_ended_while_nobody_watched_and_is_forgotten_has_left_its_code(lab):
    # Given a job that ended after its worker was killed, and that its scheduler has forgotten
    study = lab.queue_jobs(f"{UNTIL_GO}; exit 7")
    first = lab.work_on_jobs()
    wait_until(lambda: lab.ledger("ran"), "the job runs")
    (record,) = lab.records(study)
    wait_until(lambda: lab.id_of(record), "its id is noted")
    os.kill(lab.engine_of(first), signal.SIGKILL)
    first.wait(timeout=30)
    lab.go()
    wait_until(record.with_suffix(".code").exists, "the job has ended")
    (job,) = lab.jobs()
    job.rename(job.with_name(f"gone-{job.name}"))
    # When another worker comes
    lab.work_on_jobs("--exit-when-done")
    # Then it knows how it ended, and does not run it again
    status = lab.wait_for_end(study, 30)
    assert status["failed_samples"][0]["reason"] == "exit code 7"
    assert lab.ledger("ran") == ran_once(1)


@pytest.mark.slow
def test_a_worker_that_drains_leaves_its_jobs_and_the_next_one_awaits_them_at_once(lab):
    # Given a job that runs
    study = lab.queue_jobs(UNTIL_GO)
    first = lab.work_on_jobs("--lease", "60")
    wait_until(lambda: lab.ledger("ran"), "the job runs")
    (record,) = lab.records(study)
    wait_until(lambda: lab.id_of(record), "its id is noted")
    # When its worker is asked to end, it does not wait
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=15) == 0
    assert lab.study(study)["by_step"]["a"]["ready"] == 1
    # Then another one has the job, long before a lease has ended
    lab.work_on_jobs("--exit-when-done")
    wait_until(lambda: "job_found" in lab.logs(), "it finds the job", 15)
    lab.go()
    assert lab.wait_for_end(study, 30)["by_step"]["a"]["finished"] == 1
    assert (lab.ledger("ran"), len(lab.jobs())) == (ran_once(1), 1)


@pytest.mark.slow
def test_a_job_that_is_being_submitted_while_its_worker_drains_is_left_too(lab):
    # Given a scheduler that takes its time
    (lab.fake_dir / "slow").touch()
    study = lab.queue_jobs(UNTIL_GO)
    first = lab.work_on_jobs("--lease", "60")
    wait_until(lab.jobs, "the job is being submitted")
    # When the worker is asked to end meanwhile
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=30) == 0
    (lab.fake_dir / "slow").unlink()
    # Then the next one has the job
    lab.work_on_jobs("--exit-when-done")
    wait_until(lambda: "job_found" in lab.logs(), "it finds the job", 15)
    lab.go()
    assert lab.wait_for_end(study, 30)["by_step"]["a"]["finished"] == 1
    assert (lab.ledger("ran"), len(lab.jobs())) == (ran_once(1), 1)


@pytest.mark.slow
def test_jobs_of_a_study_that_was_purged_are_cancelled(lab):
    study = lab.queue_jobs(UNTIL_GO)
    lab.work_on_jobs()
    wait_until(lambda: lab.ledger("ran"), "the job runs")
    wait_until(lambda: [lab.id_of(record) for record in lab.records(study)], "its id is noted")
    lab.mrun("purge", study, "--yes")
    (job,) = lab.jobs()
    wait_until((job / "cancelled").exists, "the job was cancelled")


@pytest.mark.slow
def test_a_worker_that_lost_its_lease_settles_nothing_and_leaves_the_job_to_the_other(lab):
    # Given a worker that is frozen while its job runs
    study = lab.queue_jobs(UNTIL_GO)
    frozen = lab.work_on_jobs()
    wait_until(lambda: lab.ledger("ran"), "the job runs")
    (record,) = lab.records(study)
    wait_until(lambda: lab.id_of(record), "its id is noted")
    engine = lab.engine_of(frozen)
    os.kill(engine, signal.SIGSTOP)
    # When another one has the job, and the first wakes up
    lab.work_on_jobs("--exit-when-done")
    wait_until(lambda: "job_found" in lab.logs(), "the other one has the job", 20)
    os.kill(engine, signal.SIGCONT)
    wait_until(lambda: "claim_lost" in lab.logs(), "the first hears of it", 20)
    # Then the job goes on, and is counted once
    lab.go()
    status = lab.wait_for_end(study, 30)
    assert status["by_step"]["a"]["finished"] == 1
    assert (lab.ledger("ran"), len(lab.jobs())) == (ran_once(1), 1)
    assert not (lab.jobs()[0] / "cancelled").exists()


@pytest.mark.slow
@every
def test_a_job_that_somebody_cancels_is_a_failed_sample(lab):
    study = lab.queue_jobs(UNTIL_GO)
    lab.work_on_jobs("--exit-when-done")
    wait_until(lambda: lab.ledger("ran"), "the job runs")
    (record,) = lab.records(study)
    job = str(wait_until(lambda: lab.id_of(record), "its id is noted"))
    subprocess.run([*CANCEL[lab.kind], job], env=lab.environment, check=True, capture_output=True)
    status = lab.wait_for_end(study, 30)
    assert status["failed_samples"][0]["reason"] == f"was cancelled in {TITLES[lab.kind]}"


@only("lsf")
def test_a_cancelled_study_cancels_its_jobs(lab):
    # Given a job that runs, and one that waits for its turn
    study = lab.queue_jobs(UNTIL_GO, 2, "throttle: 1")
    lab.work_on_jobs()
    wait_until(lambda: lab.ledger("ran"), "the job runs")
    # When the study is cancelled
    lab.mrun("cancel", study, "--yes")
    # Then the scheduler was asked to end the one, and never had the other
    assert lab.wait_for_end(study, 30)["by_step"]["a"]["cancelled"] == 2
    (job,) = lab.jobs()
    assert (job / "cancelled").exists()


@pytest.mark.slow
def test_a_scheduler_that_takes_no_more_jobs_for_now_is_asked_again(lab):
    (lab.fake_dir / "full").touch()
    study = lab.queue_jobs("echo ${MRUN_SAMPLE_ID} >> $LEDGER/ran", 2)
    lab.work_on_jobs("--exit-when-done")
    wait_until(lambda: "scheduler_refused" in lab.logs(), "it says so")
    (lab.fake_dir / "full").unlink()
    assert lab.wait_for_end(study, 30)["by_step"]["a"]["finished"] == 2
    assert lab.ledger("ran") == ran_once(2)


@only("pbs")
def test_a_refused_job_is_no_failure_of_its_sample_and_the_worker_says_why(lab):
    study = lab.queue_jobs("true", batch="queue: nope")
    worker = lab.work_on_jobs("--exit-when-done")
    assert worker.wait(timeout=60) == 6, lab.logs()
    assert "queue" in lab.logs().lower()
    assert lab.study(study)["by_step"]["a"]["ready"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lab", "is_there", "why", "events"),
    [
        # Nobody who could submit here: another try would be the same
        ("pbs", False, "'qsub' can't be started", ["study_refused"]),
        # Who refuses may have meant one sample: it is asked again
        ("pbs", True, "Unknown queue", ["sample_not_started", "study_refused"]),
    ],
    indirect=["lab"],
)
def test_a_refusal_is_told_once_and_not_for_each_sample(lab, is_there, why, events):
    # Given more samples than a worker submits at a time, and a scheduler that takes none of them
    study = lab.queue_jobs("true", 40, batch="queue: nope")
    if not is_there:
        (lab.directory / "bin" / "qsub").unlink()
    # When a worker has tried
    worker = lab.work_on_jobs("--exit-when-done", "--slots", "12")
    assert worker.wait(timeout=60) == 6, lab.logs()
    # Then its log says once why, and once what comes of it; and the end says it once more
    lines = [line for line in lab.logs().splitlines() if why in line]
    assert [json.loads(line)["event"] for line in lines if line.startswith("{")] == events
    assert len(lines) == len(events) + 1, lab.logs()
    assert lab.study(study)["by_step"]["a"]["ready"] == 40


@pytest.mark.slow
def test_what_a_scheduler_refuses_later_goes_back_too(lab):
    # Flux takes jobs that can't be satisfied, and fails them afterwards.
    study = lab.queue_jobs("true", options="procs: 100")
    worker = lab.work_on_jobs("--exit-when-done")
    assert worker.wait(timeout=60) == 6, lab.logs()
    assert "unsatisfiable request" in lab.logs()
    assert lab.study(study)["by_step"]["a"]["ready"] == 1


@pytest.mark.slow
@only("pbs")
def test_a_job_past_its_walltime_is_told_as_such(lab):
    study = lab.queue_jobs("exec sleep 600", options="walltime: 1")
    lab.work_on_jobs("--exit-when-done")
    assert lab.wait_for_end(study, 30)["failed_samples"][0]["reason"] == "ran longer than its walltime of 1 s"


@pytest.mark.slow
def test_each_execution_of_a_sample_is_a_job_of_its_own(lab):
    # Given a script that asks to be restarted, and a restart script
    options = "retry_delay: 0, restart: 'echo again ${MRUN_RESUME} >> $LEDGER/ran'"
    study = lab.queue_jobs("echo first >> $LEDGER/ran; exit 100", options=options)
    lab.work_on_jobs("--exit-when-done")
    assert lab.wait_for_end(study, 30)["by_step"]["a"]["finished"] == 1
    assert (lab.ledger("ran"), len(lab.jobs())) == (Counter(["first", "again", "1"]), 2)


@pytest.mark.slow
@only("lsf")
def test_at_most_so_many_jobs_of_a_step_are_with_the_scheduler(lab):
    cmd = "echo $(ls $FAKE_DIR/*/pid | wc -l) $(ls $FAKE_DIR/*/end 2>/dev/null | wc -l) > $LEDGER/at.${MRUN_SAMPLE_ID}"
    study = lab.queue_jobs(cmd, 6, "throttle: 2")
    lab.work_on_jobs("--exit-when-done")
    assert lab.wait_for_end(study, 30)["by_step"]["a"]["finished"] == 6
    counts = [tuple(map(int, path.read_text().split())) for path in lab.ledger_dir.glob("at.*")]
    assert len(counts) == 6
    assert all(begun - ended <= 2 for begun, ended in counts), counts


def test_without_a_scheduler_the_worker_runs_the_script(tmp_path, own_server):
    lab = Lab(tmp_path, own_server)
    np.save(tmp_path / "samples.npy", np.arange(2.0))
    spec = SPEC.format(type="local", cmd="echo ${MRUN_SAMPLE_ID} >> $LEDGER/ran", options="throttle: 1", batch="")
    study = lab.queue(lab.spec(spec))
    lab.work("--queues", "merlin", "--exit-when-done")
    assert lab.wait_for_end(study, 30)["by_step"]["a"]["finished"] == 2
    assert lab.ledger("ran") == ran_once(2)
    lab.close()
