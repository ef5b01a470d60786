"""What Slurm's programs say, and what is made of it. Answers were seen on Slurm 22.05, if nothing else is said."""

from __future__ import annotations

import pytest
import structlog

from mrun.engine.errors import LauncherAwayError, LauncherError
from mrun.launchers.resources import Account, Needs
from mrun.launchers.schedulers import EndKind, Job, JobState, Output
from mrun.launchers.slurm import SlurmLauncher
from mrun.launchers.slurm_jobs import STATES, SlurmScheduler, status_of

SQUEUE, SACCT = SlurmScheduler.queries


def row(*cells: str) -> str:
    return "".join(cell.ljust(200) for cell in cells) + "\n"


@pytest.mark.parametrize(
    ("cells", "state", "kind", "number"),
    [
        (("1", "PENDING", "Resources", "0"), JobState.QUEUED, None, 0),
        (("1", "RUNNING", "None", "0"), JobState.RUNNING, None, 0),
        (("1", "COMPLETING", "None", "0"), JobState.RUNNING, None, 0),
        (("1", "COMPLETED", "None", "0"), JobState.ENDED, EndKind.EXITED, 0),
        (("1", "FAILED", "NonZeroExitCode", "768"), JobState.ENDED, EndKind.EXITED, 3),
        (("1", "FAILED", "JobLaunchFailure", "9"), JobState.ENDED, EndKind.SIGNALLED, 9),
        (("1", "OUT_OF_MEMORY", "OutOfMemory", "125"), JobState.ENDED, EndKind.SIGNALLED, 9),
        (("1", "TIMEOUT", "TimeLimit", "15"), JobState.ENDED, EndKind.TIMED_OUT, 0),
        (("1", "CANCELLED", "Resources", "0"), JobState.ENDED, EndKind.CANCELLED, 0),
        (("1", "NODE_FAIL", "NodeDown", "0"), JobState.ENDED, EndKind.NODE_FAILED, 0),
    ],
)
def test_a_row_of_squeue(cells, state, kind, number):
    (status,) = SQUEUE.read(Output(0, row(*cells)))
    assert (status.job, status.state, status.word) == ("1", state, cells[1])
    assert (status.end.kind if status.end else None) == kind
    if kind in (EndKind.EXITED, EndKind.SIGNALLED):
        assert (status.end.signal if kind is EndKind.SIGNALLED else status.end.code) == number


def test_rows_of_sacct_tell_the_same():
    out = "7|FAILED|None|3:0\n8|CANCELLED by 1000|None|0:15\n9|FAILED|None|0:9\nodd\n"
    seven, eight, nine = SACCT.read(Output(0, out))
    assert (seven.job, seven.end.code) == ("7", 3)
    assert eight.end.kind is EndKind.CANCELLED
    assert (nine.end.kind, nine.end.signal) == (EndKind.SIGNALLED, 9)


def test_an_unknown_state_is_unknown_and_a_warning():
    with structlog.testing.capture_logs() as logs:
        status = status_of("1", "FROZEN", "None", 0)
    assert (status.state, status.end) == (JobState.UNKNOWN, None)
    assert [(entry["event"], entry["state"], entry["log_level"]) for entry in logs] == [
        ("job_state_unknown", "FROZEN", "warning")
    ]


def test_ended_states_and_no_others_have_an_end():
    for word, (state, kind) in STATES.items():
        assert (state is JobState.ENDED) == (kind is not None), word


def test_jobs_that_nobody_knows_are_no_error():
    assert SQUEUE.read(Output(1, err="slurm_load_jobs error: Invalid job id specified\n")) == []
    assert SACCT.read(Output(1, err="Slurm accounting storage is disabled\n")) == []


@pytest.mark.parametrize(
    ("said", "is_passing"),
    [
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", True),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", True),
        ("sbatch: error: AssocMaxSubmitJobLimit", True),
        ("sbatch: error: Batch job submission failed: Invalid partition name specified", False),
        ("", False),
    ],
)
def test_a_refusal_is_told_in_full_and_may_pass(said, is_passing):
    with pytest.raises(LauncherError) as caught:
        SlurmScheduler().read_submitted(Output(1, err=f"{said}\n"))
    assert (said or "it said nothing") in caught.value.message
    assert isinstance(caught.value, LauncherAwayError) == is_passing


@pytest.mark.parametrize("out", ["12\n", "12;cluster\n", "Checking your allocation: fine.\n12\n"])
def test_the_id_of_a_job(out):
    assert SlurmScheduler().read_submitted(Output(0, out)) == "12"


def test_a_job_in_words():
    needs = Needs(nodes=2, procs=8, cores_per_task=2, gpus=4, walltime_s=90, is_exclusive=True)
    account = Account(bank="bank", queue="batch")
    job = Job("/w/s.sh", "/w", "/w/100%.out", "/w/s.err", "sim", needs, account, ("--mail-type=END",))
    assert " ".join(SlurmScheduler().submit_command(job)) == (
        "sbatch --parsable --no-requeue --open-mode=append --job-name=sim --chdir=/w --output=/w/100%%.out "
        "--error=/w/s.err --nodes=2 --ntasks=8 --cpus-per-task=2 --gpus=4 --time=00:02:00 --account=bank "
        "--partition=batch --exclusive --mail-type=END /w/s.sh"
    )


@pytest.mark.parametrize(
    ("version", "share"),
    [
        ("slurm 20.02.7", "--exclusive"),
        ("slurm 20.11.9", "--exact"),
        ("slurm-wlm 22.05.8", "--exact"),
        ("?", "--exact"),
    ],
)
def test_steps_have_their_own_cores_in_the_words_of_the_version(version, share):
    launcher = SlurmLauncher().probed(Output(0, f"{version}\n"))
    assert launcher.command("/s.sh", Needs(procs=2, cores_per_task=3, gpus=1)) == (
        *("srun", "--quiet", "--export=ALL", "--nodes=1", "--ntasks=1"),
        *("--cpus-per-task=6", "--gpus=1", share, "/s.sh"),
    )
    variable = "SLURM_EXACT" if share == "--exact" else "SLURM_EXCLUSIVE"
    assert launcher.step_variables({"SLURM_JOB_ID": "1"}) == {variable: "1", "SLURM_MEM_PER_NODE": "0"}


@pytest.mark.parametrize(
    ("out", "expected"),
    [("10:00", 600), ("1-02:03:04", 93_784), ("2:00:01", 7201), ("UNLIMITED", None), ("NOT_SET", None), ("", None)],
)
def test_the_time_that_is_left(out, expected):
    assert SlurmLauncher().read_time_left_s(Output(0, f"{out}\n")) == expected


def test_an_allocation_of_unlike_nodes_tells_this_nodes_cores():
    environment = {
        "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2],big", "SLURM_JOB_CPUS_PER_NODE": "4(x2),8",
        "SLURM_NODEID": "2", "SLURM_JOB_END_TIME": "1795363966", "CUDA_VISIBLE_DEVICES": "0,1",
    }  # fmt: skip
    found = SlurmLauncher().detect(environment)
    assert (found.nodes, found.cores, found.gpus) == (("n1", "n2", "big"), 8, ("0", "1"))
    assert found.ends_at_s == 1_795_363_966
