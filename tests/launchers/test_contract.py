"""What `launchers/base.py` and `schedulers.py` promise, of every launcher: ours, and one of a third party."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import msgspec
import pytest

from mrun.engine.errors import LauncherError
from mrun.launchers.base import Allocation, Launcher, WorkerAllocation
from mrun.launchers.find import launcher_named, prefix_named
from mrun.launchers.job_calls import JobCalls
from mrun.launchers.resources import Account, Needs, Resources
from mrun.launchers.schedulers import EndKind, Job, JobState, JobStatus, Output
from tests.conftest import wait_until
from tests.launchers.kinds import ALLOCATED, NAMES, SHORT_S, Kind, faked, install

#: Those whose allocation starts scripts, and those that take jobs.
STARTING = tuple(name for name in NAMES if name != "pbs")
TAKING = ("slurm", "flux", "lsf", "pbs")


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that names a launcher in the entry-point group is installed."""
    install(tmp_path / "site", "nice", "tests.launchers.kinds:NiceLauncher")
    monkeypatch.syspath_prepend(tmp_path / "site")


@pytest.fixture
def kind(request: pytest.FixtureRequest, tmp_path: Path, third_party: None) -> Iterator[Kind]:
    name = request.param
    if name == "slurm":
        yield Kind(launcher_named("slurm"), request.getfixturevalue("slurm").environment)
        return
    yield faked(name, tmp_path)
    wait_until(lambda: not _left(tmp_path), f"no job is left: {_left(tmp_path)}")


def every(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", names, indirect=True)


def _left(directory: Path) -> list[str]:
    """Processes that work in a fake's directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"FAKE_DIR={directory}/".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.fixture
def script(tmp_path: Path):
    def write(text: str, name: str = "script.sh") -> str:
        path = tmp_path / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return write


# ------------------------------------------------------------------------------------------------- words


@every(*NAMES)
def test_a_launcher_is_found_by_its_name_and_has_one_set_of_words(kind):
    launcher = kind.launcher
    assert isinstance(launcher, Launcher)
    assert launcher.prefix is prefix_named(launcher.name)
    asked = Resources(nodes="2", procs="4")
    assert launcher.prefix.words(asked) == launcher.prefix.words(asked)


@every(*NAMES)
def test_an_allocation_is_seen_only_where_there_is_one(kind):
    launcher = kind.launcher
    assert launcher.detect({"PATH": "/bin", "HOME": "/home/me"}) is None
    if kind.name in ALLOCATED:
        allocation = launcher.detect(ALLOCATED[kind.name])
        assert (allocation.launcher, bool(allocation.job)) == (kind.name, True)
        # Words that nobody knows are left out, and are no error.
        odd = dict.fromkeys([*ALLOCATED[kind.name], "SLURM_JOB_END_TIME", "CUDA_VISIBLE_DEVICES"], "[x](,7-")
        assert launcher.detect(odd).cores == 0
        assert launcher.detect(odd).ends_at_s is None


@every(*NAMES)
def test_what_is_no_answer_is_read_as_none(kind):
    for answer in (Output(1, "", "broken"), Output(0, "?"), Output(0, "")):
        assert kind.launcher.read_time_left_s(answer) is None
        assert kind.launcher.probed(answer).name == kind.name


@every(*NAMES)
def test_variables_for_steps_are_given_only_in_an_allocation(kind):
    assert kind.launcher.step_variables({}) == {}


@every(*NAMES)
def test_scripts_find_the_environment_of_their_worker(kind):
    assert kind.launcher.script_variables({"PATH": "/bin", "LANG": "C"}) == {"PATH": "/bin", "LANG": "C"}


@every("slurm", "flux", "lsf", "pbs")
def test_words_that_start_a_worker_on_each_node_end_with_the_workers_own(kind):
    words = kind.launcher.worker_command(("mrun", "work"), 2)
    assert words[-2:] == ("mrun", "work")
    assert len(words) > 2
    assert kind.launcher.worker_nodes(Allocation(kind.name, "12", nodes=("a", "b"))) in (1, 2)


@every("local", "nice")
def test_who_starts_no_workers_on_other_nodes_says_what_to_do(kind):
    assert not kind.launcher.launches_workers
    for ask in (
        lambda: kind.launcher.worker_command((), 2),
        lambda: kind.launcher.allocate_command(WorkerAllocation()),
    ):
        with pytest.raises(LauncherError) as caught:
            ask()
        assert "--nodes" in caught.value.hint


# ------------------------------------------------------------------------------------------------- a script


@every(*STARTING)
@pytest.mark.parametrize(
    ("body", "end", "number"),
    [
        ("exit 0", EndKind.EXITED, 0),
        ("exit 1", EndKind.EXITED, 1),
        ("exit 104", EndKind.EXITED, 104),
        ("kill -9 $$", EndKind.SIGNALLED, 9),
        ("kill -SEGV $$", EndKind.SIGNALLED, 11),
    ],
)
def test_a_script_is_run_once_and_its_end_is_told(kind, script, tmp_path, body, end, number):
    path = script(f'echo "$PWD" | tee -a ran; {body}')
    words = kind.launcher.command(path, Needs(procs=2))
    done = subprocess.run(words, cwd=tmp_path, env=kind.environment, capture_output=True, text=True, check=False)
    assert (tmp_path / "ran").read_text() == f"{tmp_path}\n"
    if end is EndKind.EXITED:
        # srun sometimes loses the last lines of a script that a signal has ended.
        assert done.stdout == f"{tmp_path}\n"
    found = kind.launcher.end_of(Output(done.returncode, err=done.stderr))
    assert (found.kind, found.signal if end is EndKind.SIGNALLED else found.code) == (end, number)


@every(*STARTING)
def test_signals_that_ask_its_words_to_end_end_the_script(kind, script, tmp_path):
    path = script("echo $$ > began.new; mv began.new began; exec sleep 600")
    process = subprocess.Popen(
        kind.launcher.command(path), cwd=tmp_path, env=kind.environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0,
    )  # fmt: skip
    wait_until((tmp_path / "began").exists, "the script runs")
    (pid,) = (tmp_path / "began").read_text().split()
    for number in kind.launcher.stop_signals:
        process.send_signal(number)
        time.sleep(0.3)
    assert process.wait(timeout=30) != 0
    wait_until(lambda: not Path("/proc", pid).exists(), "the script has ended")


@every("slurm", "flux", "lsf")
def test_one_script_is_not_started_on_several_nodes(kind):
    with pytest.raises(LauncherError, match="2 nodes") as caught:
        kind.launcher.command("/script.sh", Needs(nodes=2))
    assert "$(LAUNCHER)" in caught.value.hint


@every("pbs")
def test_who_starts_no_scripts_says_what_to_do(kind):
    with pytest.raises(LauncherError) as caught:
        kind.launcher.command("/script.sh")
    assert "mode" in caught.value.hint


# ------------------------------------------------------------------------------------------------- jobs


def job_of(path: str, **fields: object) -> Job:
    job = Job(path, str(Path(path).parent), f"{path}.out", f"{path}.err", needs=Needs(walltime_s=3600))
    return msgspec.structs.replace(job, **fields)


def desk_of(kind: Kind) -> JobCalls:
    assert kind.launcher.scheduler is not None
    return JobCalls(kind.launcher.scheduler, kind.environment)


async def status_when(desk: JobCalls, job: str, state: JobState) -> JobStatus:
    with anyio.fail_after(30):
        while True:
            status = (await desk.look([job]))[job]
            if status.state is state:
                return status
            await anyio.sleep(0.05)


@every(*TAKING)
async def test_a_job_runs_once_in_its_directory_and_its_end_is_known(kind, script, tmp_path):
    desk = desk_of(kind)
    path = script('echo "$PWD $EXTRA"; exit 104')
    job = await desk.submit(job_of(path), {"EXTRA": "more"})
    status = await status_when(desk, job, JobState.ENDED)
    assert (status.end.kind, status.end.code) == (EndKind.EXITED, 104)
    assert Path(f"{path}.out").read_text() == f"{tmp_path} more\n"


@every(*TAKING)
async def test_many_jobs_and_one_that_never_was_are_asked_for_at_once(kind, script):
    desk = desk_of(kind)
    jobs = [await desk.submit(job_of(script(text, f"{number}.sh"))) for number, text in enumerate(("exit 0", "exit 2"))]
    jobs.append(await desk.submit(job_of(script("kill -9 $$"))))
    for job in jobs:
        await status_when(desk, job, JobState.ENDED)
    unknown = f"{9_999_999}.pbs" if kind.name == "pbs" else "9999999"
    found = await desk.look([unknown, *jobs])
    assert list(found) == [unknown, *jobs]
    assert found[unknown].state is JobState.UNKNOWN
    assert [found[job].end.code for job in jobs[:2]] == [0, 2]
    assert (found[jobs[2]].end.kind, found[jobs[2]].end.signal) == (EndKind.SIGNALLED, 9)
    assert (await desk.look([unknown]))[unknown].state is JobState.UNKNOWN
    assert await desk.look([]) == {}


@every(*TAKING)
async def test_a_job_is_cancelled_and_cancelling_again_is_no_error(kind, script):
    desk = desk_of(kind)
    job = await desk.submit(job_of(script("exec sleep 600")))
    await status_when(desk, job, JobState.RUNNING)
    await desk.cancel([job])
    assert (await status_when(desk, job, JobState.ENDED)).end.kind is EndKind.CANCELLED
    await desk.cancel([job])
    await desk.cancel([])


@every(*SHORT_S)
async def test_a_job_past_its_walltime_is_told_as_such(kind, script):
    desk = desk_of(kind)
    job = await desk.submit(job_of(script("exec sleep 600"), needs=Needs(walltime_s=SHORT_S[kind.name])))
    assert (await status_when(desk, job, JobState.ENDED)).end.kind is EndKind.TIMED_OUT


@every(*TAKING)
async def test_a_refused_job_is_an_error_with_all_that_was_said(kind, script):
    with pytest.raises(LauncherError, match=r"(?i)queue|partition") as caught:
        await desk_of(kind).submit(job_of(script("true"), account=Account(queue="nope")))
    assert not caught.value.is_retryable


@every("lsf", "pbs")
async def test_a_full_queue_is_an_error_that_passes(kind, script):
    with pytest.raises(LauncherError) as caught:
        await desk_of(kind).submit(job_of(script("true"), account=Account(queue="full")))
    assert caught.value.is_retryable


@every("flux")
async def test_flux_refuses_what_can_not_be_satisfied_after_it_was_submitted(kind, script):
    desk = desk_of(kind)
    job = await desk.submit(job_of(script("true"), needs=Needs(procs=100)))
    end = (await status_when(desk, job, JobState.ENDED)).end
    assert end.kind is EndKind.REFUSED
    assert end.why == "unsatisfiable request: need 100 core(s)|only 2"


@every(*TAKING)
async def test_without_its_programs_the_error_says_which_is_missing(kind, script, tmp_path):
    bare = Kind(kind.launcher, {"PATH": str(tmp_path / "nowhere")})
    with pytest.raises(LauncherError, match="can't be started"):
        await desk_of(bare).submit(job_of(script("true")))
