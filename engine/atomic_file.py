"""Replacing a file: its readers see the old one or the new one, and never a part of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO

_NEW = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


@contextlib.contextmanager
def replaced_file(path: str | os.PathLike[str], mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Open a file that takes the name `path` when the block has ended. If the block raises, `path` stays as it is.

    Several processes may do so at once, on several machines: the last one wins.

    Args:
        mode: the rights of the new file, less what the umask takes away.

    Raises:
        OSError: it can't be written.
    """
    # A name of its own: the process ids of two machines may be equal.
    own = f"{os.fspath(path)}.{os.urandom(4).hex()}.new"
    fd = os.open(own, _NEW, mode)
    try:
        with open(fd, "w+b") as file:
            yield file
        os.rename(own, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(own)
        raise
