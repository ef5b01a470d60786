"""Every launcher, with an environment in which its programs are there: a real Slurm, fakes of the others on PATH."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import msgspec

from mrun.launchers.base import ONE_CORE, Allocation, Launcher
from mrun.launchers.find import launcher_named
from mrun.launchers.resources import Needs, Prefix

FAKES = Path(__file__).parent / "fakes"
#: Links by which a fake is called.
CALLED = {
    "flux": {"flux": "flux"},
    "lsf": dict.fromkeys(("bsub", "bjobs", "bkill", "jsrun"), "lsf"),
    "pbs": dict.fromkeys(("qsub", "qselect", "qstat", "qdel"), "pbs"),
}
#: What a scheduler sets in an allocation, at the least.
ALLOCATED = {
    "slurm": {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_ON_NODE": "4"},
    "flux": {"FLUX_URI": "local:///tmp/flux-a/local-0", "FLUX_ENCLOSING_ID": "ƒJE"},
    "lsf": {"LSB_JOBID": "12", "LSB_MCPU_HOSTS": "h1 4"},
    "lsf-srun": {"LSB_JOBID": "12", "LSB_MCPU_HOSTS": "h1 4"},
    "pbs": {"PBS_JOBID": "12.pbs", "NCPUS": "4"},
    "nice": {"NICE_JOB": "12"},
}
NAMES = ("local", "slurm", "flux", "lsf", "pbs", "nice")
#: A queue that does not exist, and a walltime that ends soon; real Slurm counts in minutes, and has a test of its own.
SHORT_S = {"flux": 0.5, "lsf": 300.0, "pbs": 1.0}


class NiceLauncher(Launcher):
    """A third party's: starts scripts with less priority."""

    name: ClassVar[str] = "nice"
    prefix = Prefix(lambda asked: ("nice",), frozenset())

    def detect(self, environment: Mapping[str, str]) -> Allocation | None:
        job = environment.get("NICE_JOB")
        return Allocation(self.name, job) if job else None

    def command(self, script_path: str, needs: Needs = ONE_CORE) -> tuple[str, ...]:
        return ("nice", script_path)


class Kind(msgspec.Struct, frozen=True):
    """A launcher and the environment in which it can be tried."""

    launcher: Launcher
    environment: dict[str, str]

    @property
    def name(self) -> str:
        return self.launcher.name


def install(site: Path, name: str, value: str) -> None:
    """Put what pip leaves of a package that has this launcher into a directory."""
    package = site / f"{name}_launcher-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}_launcher\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(f"[mrun.launchers]\n{name} = {value}\n")


def faked(name: str, directory: Path) -> Kind:
    """A launcher whose programs are fakes, with a directory of their own."""
    bin_dir, fake_dir = directory / "bin", directory / "fake"
    bin_dir.mkdir()
    fake_dir.mkdir()
    for link, fake in CALLED.get(name, {}).items():
        (bin_dir / link).symlink_to(FAKES / fake)
    # The fakes are Python programs: of this Python.
    path = os.pathsep.join((str(bin_dir), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    environment = dict(os.environ) | {"PATH": path, "FAKE_DIR": str(fake_dir), "HOME": str(directory)}
    return Kind(launcher_named(name), environment | (ALLOCATED[name] if name == "flux" else {}))
