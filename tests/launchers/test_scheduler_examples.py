"""The examples that need a scheduler, as a user runs them: Slurm's on a real one, Flux' on one that is not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.homes import Home
from tests.launchers.kinds import faked
from tests.launchers.slurm import Slurm


@pytest.fixture
def home() -> Iterator[Home]:
    one = Home()
    yield one
    one.close().finish()


def output_of_last_step(home: Home, name: str) -> str:
    (study,) = (home.work / name / "studies").iterdir()
    return (study / "pi" / "pi.out").read_text()


def test_slurms_example_runs_in_a_batch_job_of_two_nodes(home: Home, slurm: Slurm) -> None:
    home.environ |= {
        "SLURM_CONF": slurm.environment["SLURM_CONF"],
        "PATH": f"{home.environ['PATH'].partition(os.pathsep)[0]}{os.pathsep}{slurm.environment['PATH']}",
    }
    home.ok("example", "slurm")
    path = home.work / "slurm"
    subprocess.run(["sbatch", "--wait", "run.sbatch"], cwd=path, env=home.environ, timeout=100, check=True)
    out = (path / "run.out").read_text()
    assert output_of_last_step(home, "slurm").startswith("112 processes, pi is about 3.1"), out
    assert "finished" in out
    # What the README says of a machine outside.
    lines = subprocess.run(
        ["mrun", "work", "spec.yaml", "--echo"], cwd=path, env=home.environ, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["salloc"]


@pytest.mark.slow
def test_fluxs_example_runs_in_an_instance(home: Home, tmp_path: Path) -> None:
    flux = faked("flux", tmp_path).environment
    first = flux["PATH"].partition(os.pathsep)[0]
    home.environ |= {name: flux[name] for name in ("FLUX_URI", "FLUX_ENCLOSING_ID", "FAKE_DIR")}
    home.environ["PATH"] = f"{first}{os.pathsep}{home.environ['PATH']}"
    home.ok("example", "flux")
    path = home.work / "flux"
    # The fake has too few cores for four processes, and starts one for each `flux run`.
    spec = path / "spec.yaml"
    spec.write_text(spec.read_text().replace("procs: 4", "procs: 2"))
    done = subprocess.run(
        ["bash", "run.sh"], cwd=path, env=home.environ, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert output_of_last_step(home, "flux").startswith("48 processes, pi is about 3.1")
    assert "finished" in done.stdout
