"""What Flux, LSF and PBS say, where the fakes of tests/launchers do not say it."""

from __future__ import annotations

import pytest

from mrun.engine.errors import LauncherAwayError
from mrun.launchers.flux import FluxLauncher
from mrun.launchers.flux_jobs import FluxScheduler
from mrun.launchers.lsf import LsfLauncher
from mrun.launchers.lsf_jobs import LsfScheduler
from mrun.launchers.pbs import PbsLauncher
from mrun.launchers.pbs_jobs import PbsScheduler
from mrun.launchers.schedulers import EndKind, JobState, Output

EXCEPTION = "1.2s: job.exception ƒ22j6Ut6j type={} severity=0 {}\n"


@pytest.mark.parametrize(
    ("code", "said", "kind", "number"),
    [
        (0, "", EndKind.EXITED, 0),
        (3, "flux-job: task(s) exited with exit code 3\n", EndKind.EXITED, 3),
        (1, "my own trouble\n", EndKind.EXITED, 1),
        (139, "flux-job: task(s) Segmentation fault\n", EndKind.SIGNALLED, 11),
        (127, EXCEPTION.format("exec", "task 0 (host vm): start failed"), EndKind.EXITED, 127),
        (142, EXCEPTION.format("timeout", "resource allocation expired"), EndKind.TIMED_OUT, 0),
        (143, EXCEPTION.format("cancel", ""), EndKind.CANCELLED, 0),
        (1, EXCEPTION.format("alloc", "unsatisfiable request: need 100 slot(s)"), EndKind.REFUSED, 0),
        (1, EXCEPTION.format("node-failure", "lost node3"), EndKind.NODE_FAILED, 0),
        (1, "flux-run: ERROR: 'nope' is not a valid queue\n", EndKind.REFUSED, 0),
        (2, "usage: …\nflux run: error: unrecognized arguments: --bogus\n", EndKind.REFUSED, 0),
    ],
)
def test_how_flux_run_ends(code, said, kind, number):
    end = FluxLauncher().end_of(Output(code, err=said))
    assert end.kind is kind
    if kind in (EndKind.EXITED, EndKind.SIGNALLED):
        assert number == (end.signal if kind is EndKind.SIGNALLED else end.code)


@pytest.mark.parametrize(
    ("line", "kind", "number"),
    [
        ("999|COMPLETED|0||", EndKind.EXITED, 0),
        ("999|FAILED|256||", EndKind.EXITED, 1),
        ("999|FAILED|32512|exec|not found", EndKind.EXITED, 127),
        ("999|FAILED|35072||", EndKind.SIGNALLED, 9),
        ("999|FAILED|9||", EndKind.SIGNALLED, 9),
        ("999|FAILED||alloc|unsatisfiable request: a|b", EndKind.REFUSED, 0),
        ("999|TIMEOUT|36352|timeout|", EndKind.TIMED_OUT, 0),
        ("999|CANCELED|36608|cancel|", EndKind.CANCELLED, 0),
        ("999|CANCELED||cancel|", EndKind.CANCELLED, 0),
    ],
)
def test_a_line_of_flux_jobs(line, kind, number):
    (status,) = FluxScheduler.queries[0].read(Output(0, f"{line}\n"))
    assert (status.job, status.state, status.end.kind) == ("999", JobState.ENDED, kind)
    if kind in (EndKind.EXITED, EndKind.SIGNALLED):
        assert number == (status.end.signal if kind is EndKind.SIGNALLED else status.end.code)


@pytest.mark.parametrize("out", ["ƒJE\n", "fJE\n", "999\n"])
def test_an_id_of_flux_is_kept_in_decimals(out):
    assert FluxScheduler().read_submitted(Output(0, out)) == "999"


def test_flux_without_an_instance_is_away():
    said = "flux-jobs: ERROR: Unable to connect to Flux: broker socket /run/flux/local was not found\n"
    with pytest.raises(LauncherAwayError, match="broker socket"):
        FluxScheduler.queries[0].read(Output(1, err=said))


@pytest.mark.parametrize(
    ("launcher", "out", "expected"),
    [
        (FluxLauncher(), "3599.5\n", 3599.5),
        (FluxLauncher(), "infinity\n", None),
        (LsfLauncher(), "0:35 L\n", 2100),
        (LsfLauncher(), "-\n", None),
        (
            PbsLauncher(),
            '{"Jobs": {"1": {"Resource_List": {"walltime": "01:00:00"}, "resources_used": {"walltime": "00:20:30"}}}}',
            2370,
        ),
        (PbsLauncher(), '{"Jobs": {"1.s": {"Resource_List": {}}}}', None),
    ],
)
def test_the_time_that_is_left(launcher, out, expected):
    assert launcher.read_time_left_s(Output(0, out)) == expected


@pytest.mark.parametrize(
    ("record", "kind", "number"),
    [
        ('"substate": 92, "Exit_status": 3', EndKind.EXITED, 3),
        ('"substate": 92, "Exit_status": 265', EndKind.SIGNALLED, 9),
        ('"substate": 92, "Exit_status": -29', EndKind.TIMED_OUT, 0),
        ('"substate": 92, "Exit_status": -27', EndKind.SIGNALLED, 9),
        ('"substate": 92, "Exit_status": -4', EndKind.NODE_FAILED, 0),
        ('"substate": 91, "Exit_status": 271', EndKind.CANCELLED, 0),
        ('"substate": 91', EndKind.CANCELLED, 0),
    ],
)
def test_an_ended_job_of_pbs(record, kind, number):
    out = f'{{"Jobs": {{"1.s": {{"job_state": "F", {record}, "Variable_List": {{"A": "b"}}}}}}}}'
    (status,) = PbsScheduler.queries[0].read(Output(0, out))
    assert status.end.kind is kind
    if kind in (EndKind.EXITED, EndKind.SIGNALLED):
        assert number == (status.end.signal if kind is EndKind.SIGNALLED else status.end.code)


@pytest.mark.parametrize(
    ("line", "state", "kind"),
    [
        ("7|PEND|-|-|Job dependency", JobState.QUEUED, None),
        ("7|UNKWN|-|-|-", JobState.RUNNING, None),
        ("7|ZOMBI|-|-|-", JobState.ENDED, EndKind.NODE_FAILED),
        ("7|EXIT|130|TERM_ADMIN: job killed by root|-", JobState.ENDED, EndKind.CANCELLED),
        ("7|DONE|-|-|-", JobState.ENDED, EndKind.EXITED),
        ("7|ODD|-|-|-", JobState.UNKNOWN, None),
    ],
)
def test_a_line_of_bjobs(line, state, kind):
    (status,) = LsfScheduler.queries[0].read(Output(0, f"{line}\n"))
    assert status.state is state
    assert (status.end.kind if status.end else None) is kind


def test_the_cores_of_an_lsf_host_are_known_by_its_name():
    environment = {"LSB_JOBID": "7", "LSB_MCPU_HOSTS": "batch 1 h1 40 h2 44"}
    assert LsfLauncher().detect(environment).cores == 0
    found = LsfLauncher().detect(environment | {"HOSTNAME": "h2"})
    assert (found.nodes, found.cores) == (("batch", "h1", "h2"), 44)
