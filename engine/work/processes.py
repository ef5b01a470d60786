"""Starting a step's process, waiting for it, ending it. No thread for each process, and no polling.

`subprocess.Popen` is the spawn primitive: without a `preexec_fn` CPython starts the child by vfork, and its helper in
C sets working directory and process group before it execs. `os.posix_spawn` cannot set the directory, and a
`preexec_fn` would force a full fork. The end is awaited on a pidfd in the event loop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import IO, Protocol

import anyio

from mrun.engine.work.outcomes import Exit

#: Between TERM and KILL.
GRACE_S = 10.0


class Watcher(Protocol):
    """Is told which process groups live, so that it can end them when the engine can't."""

    def began(self, group: int) -> None:
        """A process group lives."""

    def ended(self, group: int) -> None:
        """Its leader was reaped."""


class StepProcess:
    """A running step: the leader of a process group of its own."""

    def __init__(self, popen: subprocess.Popen[bytes], watcher: Watcher) -> None:
        self._popen = popen
        self._watcher = watcher
        self._began = time.monotonic()
        self._pidfd = os.pidfd_open(popen.pid)
        watcher.began(popen.pid)

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._began

    async def wait(self) -> Exit:
        """Wait for its end; safe to cancel and to call again."""
        await anyio.wait_readable(self._pidfd)
        code = self._popen.wait()
        return Exit(code, elapsed_ms=1000 * self.elapsed_s)

    async def terminate(self, grace_s: float = GRACE_S) -> Exit:
        """TERM to the group, KILL after `grace_s`; returns when the leader is gone."""
        self.signal(signal.SIGTERM)
        with anyio.move_on_after(grace_s):
            return await self.wait()
        self.signal(signal.SIGKILL)
        return await self.wait()

    def signal(self, number: int) -> None:
        """Signal the whole group; nothing happens if it is gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, number)

    def close(self) -> None:
        """Forget it. If it still runs it is killed: nothing outlives the one who watches it."""
        if self._popen.returncode is None:
            self.signal(signal.SIGKILL)
            self._popen.wait()
        self._watcher.ended(self._popen.pid)
        os.close(self._pidfd)


def spawn(
    command: Sequence[str],
    directory: str,
    environment: Mapping[str, str],
    files: tuple[IO[bytes], IO[bytes]],
    watcher: Watcher,
) -> StepProcess:
    """Start a command in its own process group.

    Raises:
        OSError: the kernel could not start it: no such shell, no such directory, too many processes.
    """
    popen = subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=files[0],
        stderr=files[1],
        process_group=0,
    )
    return StepProcess(popen, watcher)
