"""Memory that holds a text for a shell, which opens it under /proc."""

from __future__ import annotations

import errno
import os

from mrun.engine.workspace.descriptors import high


class ScriptMemory:
    """Memory that holds the script of one sample at a time, under a path that the sample's shell can open.

    It is used again, because making and freeing it would cost more than writing it.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._size_bytes = 0
        self.path = ""

    def fill(self, script: bytes) -> None:
        """Take a script, instead of the one before. Raises OSError."""
        if self._fd < 0:
            self._fd, self._size_bytes = high(os.memfd_create("script")), 0
            self.path = f"/proc/{os.getpid()}/fd/{self._fd}"
        written = os.pwrite(self._fd, script, 0)
        if len(script) < self._size_bytes:
            os.ftruncate(self._fd, len(script))
        self._size_bytes = len(script)
        if written < len(script):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def release(self) -> None:
        """Somebody may still read the script, or nobody will come: the next one gets other memory."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
