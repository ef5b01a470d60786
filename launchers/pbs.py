"""PBS has no launcher of its own: `mpiexec` of an MPI that knows PBS."""

from __future__ import annotations

from mrun.launchers.resources import Prefix, Resources


def words(asked: Resources) -> tuple[str, ...]:
    """`mpiexec -n P`; what else a site wants is the step's own text."""
    return ("mpiexec", "-n", asked.procs or asked.nodes or "1")


PREFIX = Prefix(words, frozenset({"nodes", "procs"}), text_key="pbs")
