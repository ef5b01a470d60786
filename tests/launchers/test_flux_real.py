"""What the room promises of Flux, on a real instance: `flux alloc -N1 python -m pytest -m flux`. Left out otherwise."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import anyio
import pytest

from mrun.launchers.flux import FluxLauncher
from mrun.launchers.job_calls import JobCalls
from mrun.launchers.resources import Needs
from mrun.launchers.schedulers import EndKind, Job, JobState, JobStatus, Output
from mrun.launchers.surroundings import look_around

pytestmark = pytest.mark.flux


@pytest.fixture
def desk() -> JobCalls:
    return JobCalls(FluxLauncher().scheduler, os.environ)


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "script.sh"
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return str(path)


def job_of(path: str, needs: Needs | None = None) -> Job:
    return Job(path, str(Path(path).parent), f"{path}.out", f"{path}.err", needs=needs or Needs(walltime_s=600))


async def ended(desk: JobCalls, job: str) -> JobStatus:
    with anyio.fail_after(60):
        while True:
            status = (await desk.look([job]))[job]
            if status.state is JobState.ENDED:
                return status
            await anyio.sleep(0.2)


@pytest.mark.parametrize(
    ("body", "kind", "number"),
    [("exit 0", EndKind.EXITED, 0), ("exit 3", EndKind.EXITED, 3), ("kill -9 $$", EndKind.SIGNALLED, 9)],
)
def test_a_step_is_run_once_and_its_end_is_told(tmp_path, body, kind, number):
    words = FluxLauncher().command(script(tmp_path, f"pwd; {body}"))
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"{tmp_path}\n"
    end = FluxLauncher().end_of(Output(done.returncode, err=done.stderr))
    assert (end.kind, end.signal if kind is EndKind.SIGNALLED else end.code) == (kind, number)


def test_a_step_that_can_not_be_satisfied_is_refused(tmp_path):
    words = FluxLauncher().command(script(tmp_path, "true"), Needs(procs=100_000))
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert FluxLauncher().end_of(Output(done.returncode, err=done.stderr)).kind is EndKind.REFUSED


async def test_a_job_is_run_once_and_its_end_is_known(desk, tmp_path):
    path = script(tmp_path, "pwd; exit 5")
    status = await ended(desk, await desk.submit(job_of(path)))
    assert (status.end.kind, status.end.code) == (EndKind.EXITED, 5)
    assert f"{tmp_path}\n" in Path(f"{path}.out").read_text()


async def test_jobs_end_by_cancel_by_walltime_and_for_want_of_cores(desk, tmp_path):
    path = script(tmp_path, "exec sleep 600")
    late = await desk.submit(job_of(path, Needs(walltime_s=5)))
    assert (await ended(desk, late)).end.kind is EndKind.TIMED_OUT
    job = await desk.submit(job_of(path))
    await desk.cancel([job])
    assert (await ended(desk, job)).end.kind is EndKind.CANCELLED
    await desk.cancel([job])
    large = await desk.submit(job_of(path, Needs(procs=100_000)))
    assert (await ended(desk, large)).end.kind is EndKind.REFUSED


async def test_a_job_that_never_was_is_unknown(desk):
    assert (await desk.look(["999999"]))["999999"].state is JobState.UNKNOWN


async def test_the_instance_is_seen():
    around = await look_around(os.environ)
    assert around.allocation.launcher == "flux"
