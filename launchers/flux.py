"""Flux' `flux run`: https://flux-framework.readthedocs.io/projects/flux-core/en/latest/man1/flux-run.html."""

from __future__ import annotations

from mrun.launchers.resources import Prefix, Resources, flag


def words(asked: Resources) -> tuple[str, ...]:
    """`flux run -N N -n P [-c C] [-g G] [-t S.0s] [--exclusive]`; -g is per task."""
    return (
        *("flux", "run"),
        *flag("-N", asked.nodes),
        *flag("-n", asked.procs),
        *flag("-c", asked.cores_per_task),
        *flag("-g", asked.gpus_per_task),
        *flag("-t", f"{float(asked.walltime_s)}s" if asked.walltime_s else ""),
        *(("--exclusive",) if asked.is_exclusive else ()),
    )


PREFIX = Prefix(
    words,
    frozenset({"nodes", "procs", "cores_per_task", "gpus_per_task", "walltime_s", "is_exclusive"}),
    text_key="flux",
)
