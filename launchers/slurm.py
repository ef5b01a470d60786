"""Slurm's `srun`: https://slurm.schedmd.com/srun.html."""

from __future__ import annotations

from mrun.launchers.resources import Prefix, Resources, clock, flag


def words(asked: Resources) -> tuple[str, ...]:
    """`srun -N N -n P [-c C] [--gpus-per-task G] [--gpus N] [-t HH:MM:SS] [--exclusive]`."""
    return (
        "srun",
        *flag("-N", asked.nodes),
        *flag("-n", asked.procs),
        *flag("-c", asked.cores_per_task),
        *flag("--gpus-per-task", asked.gpus_per_task),
        *flag("--gpus", asked.gpus),
        *flag("-t", clock(asked.walltime_s) if asked.walltime_s else ""),
        *(("--exclusive",) if asked.is_exclusive else ()),
    )


PREFIX = Prefix(
    words,
    frozenset({"nodes", "procs", "cores_per_task", "gpus_per_task", "gpus", "walltime_s", "is_exclusive"}),
    text_key="slurm",
)
