"""What a scheduler says of a job's end, and what the job has left itself, put together."""

from __future__ import annotations

import pytest

from mrun.engine.plan.model import Terms
from mrun.engine.records import Flags, SampleState
from mrun.engine.work.outcomes import Exit, judge
from mrun.engine.work.processes.job import exit_of
from mrun.launchers.schedulers import End, EndKind

EXITED_1 = End(EndKind.EXITED, code=1)
CANCELLED, TIMED_OUT = End(EndKind.CANCELLED), End(EndKind.TIMED_OUT)
NODE_FAILED = End(EndKind.NODE_FAILED, why="NODE_FAIL: NodeDown")
FORGOTTEN = End(EndKind.UNKNOWN, why="the scheduler forgot it")


@pytest.mark.parametrize(
    ("end", "left", "found"),
    [
        (EXITED_1, None, (1, "")),
        (EXITED_1, 1, (1, "")),
        (End(EndKind.SIGNALLED, signal=9), None, (-9, "")),
        # A shell tells a signal by a code above 128.
        (End(EndKind.EXITED, code=137), 137, (-9, "")),
        (FORGOTTEN, 0, (0, "")),
        (FORGOTTEN, 139, (-11, "")),
        # What the script chose counts, also when it was made to: at its walltime it may ask to be restarted.
        (TIMED_OUT, 100, (100, "")),
        (CANCELLED, 0, (0, "")),
        (NODE_FAILED, 0, (0, "")),
        # What it was forced to does not.
        (TIMED_OUT, 143, (-15, "ran longer than its walltime of 60 s")),
        (TIMED_OUT, None, (-15, "ran longer than its walltime of 60 s")),
        (CANCELLED, 143, (-15, "was cancelled in Slurm")),
        (NODE_FAILED, 137, "Its node failed: NODE_FAIL: NodeDown."),
        (FORGOTTEN, None, "Nobody knows how it ended: the scheduler forgot it."),
        (End(EndKind.PREEMPTED), None, "Its place was taken by a job of higher rank."),
        (End(EndKind.REFUSED, why="no such node"), None, "The scheduler did not start it: no such node."),
    ],
)
def test_the_scripts_own_code_comes_first_and_then_what_ended_the_job(end, left, found):
    assert exit_of(end, None if left is None else Exit(left, 1000.0), "Slurm", 60.0) == found


def test_a_job_may_be_ended_by_a_limit_that_the_spec_does_not_name():
    assert exit_of(TIMED_OUT, None, "PBS", None) == (-15, "ran longer than PBS allows")


def test_the_reason_of_a_failed_sample_is_what_ended_its_job():
    outcome = judge(Exit(-15, 1.0, why="was cancelled in Slurm"), Terms(shell="/bin/sh", on_failure="skip"), 0)
    assert (outcome.state, outcome.reason) == (SampleState.FAILED, "was cancelled in Slurm")
    assert outcome.flags == Flags.BLOCKING
