"""Batch type → the words that stand for `$(LAUNCHER)` in a script."""

from __future__ import annotations

from mrun.launchers import flux, local, lsf, pbs, slurm
from mrun.launchers.resources import Prefix

#: Every batch type. `lsf-srun` is LSF on machines where `srun` starts processes.
PREFIXES: dict[str, Prefix] = {
    "local": local.PREFIX,
    "slurm": slurm.PREFIX,
    "lsf-srun": slurm.PREFIX,
    "flux": flux.PREFIX,
    "lsf": lsf.PREFIX,
    "pbs": pbs.PREFIX,
}
