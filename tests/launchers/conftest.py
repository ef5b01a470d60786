"""A real Slurm where there can be one, and fake schedulers on PATH everywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import IS_CI, TestServer
from tests.lab import BIN, Lab
from tests.launchers.slurm import Slurm, why_not


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Slurm]:
    """A real Slurm of two nodes. Without the packages: skipped on a laptop, a failure in CI."""
    reason = why_not()
    if reason:
        (pytest.fail if IS_CI else pytest.skip)(f"no real Slurm: {reason}")
    cluster = Slurm()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def slurm(slurm_cluster: Slurm) -> Iterator[Slurm]:
    """The real Slurm, idle and whole before and after the test."""
    slurm_cluster.heal()
    yield slurm_cluster
    slurm_cluster.heal()


@pytest.fixture
def lab(tmp_path: Path, own_server: TestServer, slurm: Slurm) -> Iterator[Lab]:
    """A lab whose commands reach the cluster, and whose server is reached from its nodes."""
    lab = Lab(tmp_path, own_server)
    lab.environment |= {
        "SLURM_CONF": slurm.environment["SLURM_CONF"],
        "PATH": f"{BIN}{os.pathsep}{slurm.environment['PATH']}",
    }
    yield lab
    slurm.heal()
    lab.close()
