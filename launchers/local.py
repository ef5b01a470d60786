"""The local launcher: the script itself, on this machine, on the worker's own resources."""

from __future__ import annotations

from mrun.launchers.resources import Prefix, Resources


class LocalLauncher:
    """Starts scripts directly: the kernel reads the `#!` line."""

    name = "local"

    def command(self, script_path: str) -> tuple[str, ...]:
        """Only the script."""
        return (script_path,)


def words(asked: Resources) -> tuple[str, ...]:
    """Nothing, one process; `mpiexec -n P` for more than one, where there is an mpiexec."""
    procs = asked.procs or asked.nodes or "1"
    return ("mpiexec", "-n", procs) if procs != "1" and asked.has_mpiexec else ()


PREFIX = Prefix(words, frozenset({"nodes", "procs"}))
