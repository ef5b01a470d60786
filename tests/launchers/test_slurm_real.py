"""What the room promises of Slurm, on a real one with two nodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import anyio
import msgspec
import pytest

from mrun.engine.errors import LauncherError
from mrun.launchers.base import Launcher
from mrun.launchers.job_calls import JobCalls
from mrun.launchers.resources import Account, Needs
from mrun.launchers.schedulers import EndKind, Job, JobState, JobStatus, Output
from mrun.launchers.slurm import SlurmLauncher
from mrun.launchers.surroundings import probed, with_end
from tests.conftest import wait_until
from tests.launchers.slurm import CORES, NODES, Slurm


@pytest.fixture
def desk(slurm: Slurm) -> JobCalls:
    return JobCalls(SlurmLauncher().scheduler, slurm.environment)


#: The end of a step that waits for the others.
_UNTIL_GO = "until [ -e go ]; do sleep 0.1; done"


def script(directory: Path, text: str, name: str = "script.sh") -> Path:
    path = directory / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


def job_of(path: Path, needs: Needs | None = None, **fields: object) -> Job:
    directory = str(path.parent)
    job = Job(str(path), directory, f"{path}.out", f"{path}.err", needs=needs or Needs(walltime_s=600))
    return msgspec.structs.replace(job, **fields)


async def status_when(desk: JobCalls, job: str, state: JobState, timeout_s: float = 30) -> JobStatus:
    """The status of a job as soon as it is in that state."""
    with anyio.fail_after(timeout_s):
        while True:
            status = (await desk.look([job]))[job]
            if status.state is state:
                return status
            await anyio.sleep(0.1)


async def test_a_job_is_run_once_and_its_code_and_files_are_kept(desk, tmp_path):
    # Given a script that fails, in a directory whose name means something to sbatch
    directory = tmp_path / "100%j done"
    directory.mkdir()
    path = script(directory, 'echo "$PWD $EXTRA"; echo oops >&2; exit 3')
    # When it is submitted and awaited
    job = await desk.submit(job_of(path), {"EXTRA": "more"})
    status = await status_when(desk, job, JobState.ENDED)
    # Then
    assert (status.end.kind, status.end.code) == (EndKind.EXITED, 3)
    assert Path(f"{path}.out").read_text() == f"{directory} more\n"
    assert Path(f"{path}.err").read_text() == "oops\n"


async def test_many_jobs_are_looked_at_by_one_question(desk, tmp_path):
    codes = [0, 1, 0, 2, 0, 7]
    jobs = [await desk.submit(job_of(script(tmp_path, f"exit {code}", f"{i}.sh"))) for i, code in enumerate(codes)]
    unknown = "4000000"
    for job in jobs:
        await status_when(desk, job, JobState.ENDED)
    found = await desk.look([*jobs, unknown])
    assert [found[job].end.code for job in jobs] == codes
    assert found[unknown].state is JobState.UNKNOWN
    assert (await desk.look([unknown]))[unknown].state is JobState.UNKNOWN


async def test_a_job_that_is_killed_ends_by_its_signal(desk, tmp_path):
    job = await desk.submit(job_of(script(tmp_path, "kill -9 $$")))
    end = (await status_when(desk, job, JobState.ENDED)).end
    assert (end.kind, end.signal) == (EndKind.SIGNALLED, 9)


async def test_a_job_waits_runs_and_is_cancelled(desk, tmp_path):
    # Given a job that takes all there is, and one behind it
    whole = Needs(nodes=2, procs=2 * CORES, is_exclusive=True, walltime_s=600)
    first = await desk.submit(job_of(script(tmp_path, "sleep 600"), whole))
    await status_when(desk, first, JobState.RUNNING)
    second = await desk.submit(job_of(script(tmp_path, "sleep 600"), whole))
    assert (await desk.look([second]))[second].state is JobState.QUEUED
    # When both are cancelled, twice, together with one that never was
    await desk.cancel([first, second, "4000000"])
    await desk.cancel([first, second])
    # Then
    for job in (first, second):
        assert (await status_when(desk, job, JobState.ENDED)).end.kind is EndKind.CANCELLED


async def test_a_job_whose_node_goes_down_is_not_started_again(desk, slurm, tmp_path):
    path = script(tmp_path, "echo began; sleep 600")
    job = await desk.submit(job_of(path, extra=("--nodelist=n2",)))
    await status_when(desk, job, JobState.RUNNING)
    slurm.set_node("n2", "down")
    status = await status_when(desk, job, JobState.ENDED)
    assert status.end.kind is EndKind.NODE_FAILED
    assert "NODE_FAIL" in status.end.why


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_job_past_its_walltime_is_ended_by_slurm(desk, slurm, tmp_path):
    # A step in the job and the job itself are told of alike.
    launcher = await probed(SlurmLauncher(), slurm.environment)
    words = " ".join(launcher.command(str(script(tmp_path, "touch began; sleep 600", "step.sh"))))
    job = await desk.submit(
        job_of(script(tmp_path, f"{words} 2> step.err; echo $? > step.code; sleep 600"), Needs(walltime_s=600))
    )
    await anyio.to_thread.run_sync(lambda: wait_until((tmp_path / "began").exists, "the step began"))
    # Slurm counts walltimes in minutes, and looks twice in one: an administrator can say that it is over now.
    slurm.run("scontrol", "update", f"JobId={job}", "EndTime=now")
    status = await status_when(desk, job, JobState.ENDED, 60)
    assert status.end.kind is EndKind.TIMED_OUT
    assert "TIMEOUT" in status.end.why
    complaint = (tmp_path / "step.err").read_text() + (tmp_path / "script.sh.err").read_text()
    assert launcher.end_of(Output(143, err=complaint)).kind is EndKind.TIMED_OUT


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"account": Account(queue="nope")}, "invalid partition"),
        ({"needs": Needs(gpus=7)}, "Requested node configuration is not available"),
        ({"extra": ("--constraint=nope",)}, "Invalid feature"),
        ({"script_path": "/nonexistent/script.sh"}, "Unable to open file"),
    ],
)
async def test_a_rejection_is_shown_in_full_and_is_final(desk, tmp_path, fields, said):
    with pytest.raises(LauncherError, match=said) as caught:
        await desk.submit(job_of(script(tmp_path, "true"), **fields))
    assert not caught.value.is_retryable
    assert "sbatch: " in caught.value.message


async def test_a_controller_that_is_away_is_a_passing_error(slurm, tmp_path):
    # Given a configuration that leads to a port where nobody listens
    conf = tmp_path / "slurm.conf"
    text = Path(slurm.environment["SLURM_CONF"]).read_text()
    conf.write_text("\n".join("SlurmctldPort=1" if "SlurmctldPort" in line else line for line in text.splitlines()))
    away = JobCalls(SlurmLauncher().scheduler, slurm.environment | {"SLURM_CONF": str(conf)}, timeout_s=2)
    # Then nothing is known, now
    with pytest.raises(LauncherError) as caught:
        await away.look(["1"])
    assert caught.value.is_retryable


def in_allocation(slurm: Slurm, tmp_path: Path, text: str, *options: str) -> Path:
    """Run a script in an allocation to its end; its directory. (`sbatch --wait` looks every ten seconds only.)"""
    path = script(tmp_path, f"{text}\ntouch done", "allocation.sh")
    slurm.run("sbatch", f"--chdir={tmp_path}", "--output=all.out", *options, str(path))
    wait_until((tmp_path / "done").exists, "the allocation's script has ended")
    return tmp_path


@pytest.mark.parametrize("memory", [(), ("--mem=500",), ("--mem-per-cpu=50",)], ids=["", "by-node", "by-core"])
async def test_steps_of_one_two_and_four_cores_are_packed_in_one_allocation(slurm, tmp_path, memory):
    # Given eight cores on two nodes, and steps that fill them; each ends only when all of them run
    launcher = await probed(SlurmLauncher(), slurm.environment)
    report = script(tmp_path, f"echo $SLURMD_NODENAME $SLURM_CPUS_PER_TASK; {_UNTIL_GO}", "step.sh")
    lines = []
    for number, procs in enumerate((4, 2, 1, 1)):
        words = " ".join(launcher.command(str(report), Needs(procs=procs)))
        # One after the other: 1 + 2 on different nodes would leave no room for the 4.
        lines.append(f"{words} > step.{number} 2> step.{number}.err &\nuntil [ -s step.{number} ]; do sleep 0.1; done")
    text = "\n".join([*_exports(launcher, memory), *lines, "touch go", "wait"])
    # When
    in_allocation(slurm, tmp_path, text, "--nodes=2", f"--ntasks={2 * CORES}", f"--ntasks-per-node={CORES}", *memory)
    # Then each was run once, with its cores
    reports = [(tmp_path / f"step.{number}").read_text().split() for number in range(4)]
    assert [int(cores) for _, cores in reports] == [4, 2, 1, 1]
    assert {node for node, _ in reports} == set(NODES)
    assert all((tmp_path / f"step.{number}.err").read_text() == "" for number in range(4))


@pytest.mark.parametrize("memory", [(), ("--mem=500",)], ids=["", "by-node"])
async def test_scripts_launchers_share_an_allocation_by_variables_alone(slurm, tmp_path, memory):
    # Given what $(LAUNCHER) stands for, in eight scripts at a time; each ends only when all of them run
    launcher = await probed(SlurmLauncher(), slurm.environment)
    lines = [f"srun -N 1 -n 1 bash -c 'touch use.{number}; {_UNTIL_GO}' &" for number in range(8)]
    all_run = "until [ $(ls use.* | wc -l) = 8 ]; do sleep 0.1; done 2>/dev/null; touch go"
    text = "\n".join([*_exports(launcher, memory), *lines, all_run, "wait"])
    # Then the allocation's script ends
    in_allocation(slurm, tmp_path, text, "--nodes=2", f"--ntasks={2 * CORES}", f"--ntasks-per-node={CORES}", *memory)


def _exports(launcher: Launcher, memory: Sequence[str]) -> list[str]:
    given = {"SLURM_JOB_ID": "1"} | ({"SLURM_MEM_PER_CPU": "50"} if "--mem-per-cpu=50" in memory else {})
    return [f"export {name}={value}" for name, value in launcher.step_variables(given).items()]


async def test_an_allocation_is_known_by_its_environment(slurm, tmp_path):
    in_allocation(slurm, tmp_path, "env -0 > environment", "--nodes=2", "--ntasks=6", "--gpus-per-node=2", "--time=10")
    pairs = (line.partition("=") for line in (tmp_path / "environment").read_text().split("\0"))
    allocation = SlurmLauncher().detect({name: value for name, _, value in pairs})
    assert allocation.launcher == "slurm"
    assert allocation.nodes == NODES
    assert allocation.cores in (2, 3, 4)
    assert allocation.gpus == ("0", "1")


async def test_the_end_of_an_allocation_is_asked_for_where_the_environment_does_not_tell(desk, slurm, tmp_path):
    job = await desk.submit(job_of(script(tmp_path, "sleep 600")))
    await status_when(desk, job, JobState.RUNNING)
    launcher = SlurmLauncher()
    allocation = launcher.detect({"SLURM_JOB_ID": job})
    assert allocation is not None
    assert allocation.ends_at_s is None
    ends_at_s = (await with_end(launcher, allocation, slurm.environment)).ends_at_s
    assert ends_at_s is not None
    assert 550 < ends_at_s - time.time() <= 600


async def test_a_step_tells_how_it_ended(slurm, tmp_path):
    # Given steps that end in their own ways
    launcher = await probed(SlurmLauncher(), slurm.environment)
    bodies = {"code": "exit 3", "signal": "kill -9 $$", "fine": "echo 'DUE TO TIME LIMIT' >&2"}
    lines = []
    for name, body in bodies.items():
        words = " ".join(launcher.command(str(script(tmp_path, body, f"{name}.sh"))))
        lines.append(f"{words} 2> {name}.err; echo $? > {name}.code")
    words = " ".join(launcher.command(str(tmp_path / "fine.sh"), Needs(procs=100)))
    lines.append(f"{words} 2> large.err; echo $? > large.code")
    in_allocation(slurm, tmp_path, "\n".join(lines), "--ntasks=2", "--nodes=1")

    def end(name: str):
        return launcher.end_of(
            Output(int((tmp_path / f"{name}.code").read_text()), err=(tmp_path / f"{name}.err").read_text())
        )

    assert (end("code").kind, end("code").code) == (EndKind.EXITED, 3)
    assert (end("signal").kind, end("signal").signal) == (EndKind.SIGNALLED, 9)
    assert (end("fine").kind, end("fine").code) == (EndKind.EXITED, 0)
    assert end("large").kind is EndKind.REFUSED
    assert "More processors requested than permitted" in end("large").why


async def test_a_step_on_a_node_that_goes_down_has_failed_with_it(desk, slurm, tmp_path):
    # Given an allocation of both nodes, and a step on the second
    launcher = await probed(SlurmLauncher(), slurm.environment)
    words = " ".join(launcher.command(str(script(tmp_path, "touch began; sleep 600", "step.sh"))))
    words = words.replace("srun ", "srun --nodelist=n2 ", 1)
    body = f"{words} 2> step.err; echo $? > code.new; mv code.new step.code; sleep 600"
    job = await desk.submit(
        job_of(script(tmp_path, body), Needs(nodes=2, procs=2, walltime_s=600), extra=("--no-kill",))
    )
    await anyio.to_thread.run_sync(lambda: wait_until((tmp_path / "began").exists, "the step began"))
    # When its node goes down
    slurm.set_node("n2", "down")
    # Then
    await anyio.to_thread.run_sync(lambda: wait_until((tmp_path / "step.code").exists, "srun has ended", 60))
    output = Output(int((tmp_path / "step.code").read_text()), err=(tmp_path / "step.err").read_text())
    # With --no-kill, srun ends with code 0, as if all were well.
    assert launcher.end_of(output).kind is EndKind.NODE_FAILED, output
    await desk.cancel([job])


async def test_a_job_is_found_by_its_name_while_slurm_remembers_it(desk, tmp_path):
    path = script(tmp_path, "true")
    jobs = [await desk.submit(job_of(path, name=name)) for name in ("mrun-a-0-1-0", "mrun-a-0-11-0", "mrun-a-0-1-0")]
    await status_when(desk, jobs[2], JobState.ENDED)
    assert await desk.find("mrun-a-0-1-0") == jobs[2]
    assert await desk.find("mrun-a-0-11-0") == jobs[1]
    assert await desk.find("mrun-a-0-2-0") == ""
