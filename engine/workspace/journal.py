"""The journal: one append-only file for each worker and study, `mrun_info/journal/<worker>.journal`.

A frame is length and CRC-32 of its body, two little-endian uint32, then the body in msgpack. The first record is the
header. A torn last frame (the machine died in the middle of a write) is cut by the reader, and all before it counts.
The highest claim number of a sample wins.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mrun.engine.errors import WorkspaceError

JOURNAL_VERSION = 1
_FRAME = struct.Struct("<II")


class Header(msgspec.Struct, frozen=True, tag="header", array_like=True):
    """Who wrote the file."""

    version: int
    study: str
    worker: str
    host: str
    started_at_s: float


class Claimed(msgspec.Struct, frozen=True, tag="claimed", array_like=True):
    """The worker owns samples [lo, hi) of a node from now on."""

    claim: int
    node: int
    lo: int
    hi: int
    attempt: int
    at_s: float


class Settled(msgspec.Struct, frozen=True, tag="settled", array_like=True):
    """What samples first, first + 1, … of a claim came to: exit codes (negative: signals) and milliseconds."""

    claim: int
    first: int
    states: tuple[str, ...]
    codes: tuple[int, ...]
    elapsed_ms: tuple[int, ...]


class Void(msgspec.Struct, frozen=True, tag="void", array_like=True):
    """The claim was lost: what was written of it from `first` on does not count."""

    claim: int
    first: int


Record = Header | Claimed | Settled | Void

_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


class JournalWriter:
    """Appends records. One write a record: a reader never sees half of one unless the machine died."""

    def __init__(self, path: Path, header: Header) -> None:
        try:
            # Not what is above it: to make a workspace anew would hide that all that was in it is lost.
            path.parent.mkdir(exist_ok=True)
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise WorkspaceError(f"The journal '{path}' can't be opened: {error.strerror}.") from error
        try:
            self.write(header)
        except OSError as error:
            os.close(self._fd)
            raise WorkspaceError(f"The journal '{path}' can't be written: {error.strerror}.") from error

    def write(self, record: Record) -> None:
        """Append one record, or nothing.

        Raises:
            OSError: the disk is full, or the workspace is gone.
        """
        body = _encode(record)
        frame = _FRAME.pack(len(body), zlib.crc32(body)) + body
        written = os.write(self._fd, frame)
        if written < len(frame):
            # The disk took a part of it. Readers stop at a torn frame: they would never see what is written after it.
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read_journal(path: Path) -> Iterator[Record]:
    """The records of one file, up to the first torn or damaged frame.

    Raises:
        WorkspaceError: it can't be read at all, which says nothing of what it tells: who knows more may repair it.
    """
    hint = "Put that right; or move it away, and what only it tells is run again."
    try:
        # A pipe would be waited for.
        if not stat.S_ISREG(path.stat().st_mode):
            raise WorkspaceError(f"The journal '{path}' is no file.", hint=hint)
        data = path.read_bytes()
    except OSError as error:
        raise WorkspaceError(f"The journal '{path}' can't be read: {error.strerror}.", hint=hint) from error
    at = 0
    while at + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, at)
        body = data[at + _FRAME.size : at + _FRAME.size + length]
        if len(body) < length or zlib.crc32(body) != checksum:
            return
        try:
            yield _decoder.decode(body)
        except ValueError:  # msgspec's, or that of a text that is none
            return
        at += _FRAME.size + length
