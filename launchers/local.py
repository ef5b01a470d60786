"""The local launcher: the script itself, on this machine, on the worker's own resources."""

from __future__ import annotations


class LocalLauncher:
    """Starts scripts directly: the kernel reads the `#!` line."""

    name = "local"

    def command(self, script_path: str) -> tuple[str, ...]:
        """Only the script."""
        return (script_path,)
