"""Small things about file descriptors, that the ways of keeping files share with the spawner."""

from __future__ import annotations

import errno
import fcntl
import os

import anyio.lowlevel

#: As much is copied at once: the event loop waits for it.
_COPY_BYTES = 1 << 20


def high(fd: int) -> int:
    """The same file under a number above those of the standard streams, which may be free if the worker has none."""
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def size_of(fd: int) -> int:
    """How long its file is."""
    return os.fstat(fd).st_size


def write_all(fd: int, data: bytes) -> None:
    """Write all of it: the system may take less at once."""
    written = os.write(fd, data)
    while written < len(data):
        data = data[written:]
        written = os.write(fd, data)


async def copy(source: int, target: int, length: int) -> None:
    """Append the first `length` bytes of one file to another. Not by sendfile: it refuses files that are appended to.

    Between two pieces other duties of the worker, and first of all its beat, have their turn.

    Raises:
        OSError: the disk is full; or the source is shorter than it was.
    """
    at = 0
    while at < length:
        data = os.pread(source, min(_COPY_BYTES, length - at), at)
        if not data:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        write_all(target, data)
        at += len(data)
        if at < length:
            await anyio.lowlevel.checkpoint()
