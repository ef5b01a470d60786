"""The local launcher: the script itself, on this machine, on the worker's own resources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mrun.launchers.base import ONE_CORE, Allocation, Launcher
from mrun.launchers.resources import Needs, Prefix, Resources


def words(asked: Resources) -> tuple[str, ...]:
    """Nothing, one process; `mpiexec -n P` for more than one, where there is an mpiexec."""
    procs = asked.procs or asked.nodes or "1"
    return ("mpiexec", "-n", procs) if procs != "1" and asked.has_mpiexec else ()


PREFIX = Prefix(words, frozenset({"nodes", "procs"}))


class LocalLauncher(Launcher):
    """Starts scripts directly: the kernel reads the `#!` line."""

    name: ClassVar[str] = "local"
    prefix = PREFIX

    def detect(self, environment: Mapping[str, str]) -> Allocation | None:
        """Nobody allocates this machine."""
        return None

    def command(self, script_path: str, needs: Needs = ONE_CORE) -> tuple[str, ...]:
        """Only the script: what it needs is counted by the worker."""
        return (script_path,)
