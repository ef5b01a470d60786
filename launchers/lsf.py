"""LSF's `jsrun`: https://www.ibm.com/docs/en/spectrum-lsf/10.1.0?topic=jsm-jsrun."""

from __future__ import annotations

from mrun.launchers.resources import Prefix, Resources, flag


def words(asked: Resources) -> tuple[str, ...]:
    """`jsrun --np P --nrs R -b <bind or rs> -d <distribution or plane:P/N> -X 1 [-g G] [-c C]`."""
    nodes, procs = asked.nodes or "1", asked.procs or asked.nodes or "1"
    return (
        "jsrun",
        *("--np", procs),
        *("--nrs", asked.resource_sets or nodes),
        *("-b", asked.bind or "rs"),
        *("-d", asked.distribution or f"plane:{_share(procs, nodes)}"),
        *("-X", asked.exit_on_error or "1"),
        *flag("-g", asked.gpus_per_task or asked.gpus),
        *flag("-c", asked.cores_per_task),
    )


def _share(procs: str, nodes: str) -> str:
    """Processes for each node; where the shell knows the numbers, it divides."""
    if procs.isdigit() and nodes.isdigit():
        return str(max(1, int(procs) // int(nodes)))
    return f"$(({procs} / {nodes}))"


PREFIX = Prefix(
    words,
    frozenset(
        {"nodes", "procs", "cores_per_task", "gpus_per_task", "gpus", "bind", "distribution", "resource_sets"}
        | {"exit_on_error"}
    ),
    text_key="lsf",
)
