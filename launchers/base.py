"""What every launcher promises."""

from __future__ import annotations

from typing import Protocol


class Launcher(Protocol):
    """Builds the command that starts a step's script.

    A launcher starts nothing itself: it gives words, and the worker spawns them in a process group of their own, with
    the sample's directory as working directory and the sample's files as stdout and stderr. The exit code or signal
    of that command is the step's. When the worker wants the step to end it signals the group: TERM, then KILL.
    """

    name: str

    def command(self, script_path: str) -> tuple[str, ...]:
        """The words to spawn. Pure: the same words for the same script."""
        ...
