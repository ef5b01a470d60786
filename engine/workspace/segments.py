"""Output of many samples in few files: `mrun_info/packed/<worker>.<n>.seg`, with an index `.idx` beside it.

A segment is nothing but bytes: what a sample wrote to stdout, then what it wrote to stderr, then the next sample. The
index has a record of 56 bytes for each execution that ended, little-endian:

    node u32 · attempt u32 · sample u64 · claim u64 · offset u64 · bytes of stdout u64, of stderr u64 · code i32 ·
    crc u32

The checksum covers the 52 bytes before it. A segment is written before its index, and only appended to; so a torn last
record, or one whose bytes are not there, is cut by the reader, and all before it counts. The highest claim of a sample
wins: what a lost claim wrote stays in the file, and is not shown.

`<worker>.now` has a cell for each sample that the worker runs, so that others can tell whether a sample that was lost
had been started.
"""

from __future__ import annotations

import functools
import itertools
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import anyio
import msgspec

from mrun.engine.errors import WorkspaceError
from mrun.engine.language.places import JOURNAL_DIR
from mrun.engine.lazy import np
from mrun.engine.workspace.descriptors import copy, write_all

#: A segment that is as long as this, or longer, gets no further sample.
SEGMENT_BYTES = 1 << 30
#: So many samples of a node are looked up at a time.
_BLOCK_SAMPLES = 1 << 20
_RECORD = struct.Struct("<IIQQQQQi")
_CHECKSUM = struct.Struct("<I")
RECORD_BYTES = _RECORD.size + _CHECKSUM.size
_CELL = struct.Struct("<QQQ")
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC


class Packed(msgspec.Struct, frozen=True):
    """An execution that ended, as an index knows it. Lengths in bytes."""

    node: int
    attempt: int
    sample: int
    claim: int
    offset: int
    out: int
    err: int
    code: int
    #: Path of its segment.
    path: str = ""


def packed_dir(workspace: str) -> Path:
    """Where a workspace has its segments."""
    return Path(workspace, JOURNAL_DIR, "packed")


class SegmentWriter:
    """Appends what one worker's samples of one workspace wrote."""

    def __init__(self, workspace: str, worker: str) -> None:
        self._directory = packed_dir(workspace)
        self._worker = worker
        self._segment = self._index = self._cells = -1
        self._end = 0
        #: Held while somebody appends: nobody else may, or close this.
        self.turn = anyio.Lock()

    def began(self, slot: int, node: int, sample: int, claim: int) -> None:
        """Note, for others, that a sample is about to run. Raises OSError."""
        if self._cells < 0:
            self._directory.mkdir(exist_ok=True)
            self._cells = os.open(self._path("now"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        os.pwrite(self._cells, _CELL.pack(node, sample, claim), slot * _CELL.size)

    async def append(self, packed: Packed, out: int, err: int) -> None:
        """Copy the first `packed.out` bytes of one descriptor and `packed.err` of another; the offset is set here.

        Others have turns meanwhile. Who cancels it finds nothing in the index.

        Raises:
            OSError: the disk is full, or the workspace is gone. What follows goes to a new segment.
        """
        if self.turn.locked():
            await self.turn.acquire()
        else:
            self.turn.acquire_nowait()
        try:
            if self._segment < 0 or self._end >= SEGMENT_BYTES:
                self._roll()
            await copy(out, self._segment, packed.out)
            await copy(err, self._segment, packed.err)
            self._note(packed)
        except BaseException:
            self._close_segment()
            raise
        finally:
            self.turn.release()

    def close(self) -> None:
        """No sample will come any more."""
        self._close_segment()
        if self._cells >= 0:
            os.close(self._cells)
            self._path("now").unlink(missing_ok=True)
            self._cells = -1

    def _note(self, packed: Packed) -> None:
        """The index knows it, and where the next one begins."""
        record = _RECORD.pack(packed.node, packed.attempt, packed.sample, packed.claim, self._end, packed.out,
                              packed.err, packed.code)  # fmt: skip
        write_all(self._index, record + _CHECKSUM.pack(zlib.crc32(record)))
        self._end += packed.out + packed.err

    def _roll(self) -> None:
        self._close_segment()
        self._directory.mkdir(exist_ok=True)
        for number in itertools.count():
            try:
                self._segment = os.open(self._path(f"{number}.seg"), _NEW, 0o666)
            except FileExistsError:
                continue
            self._index = os.open(self._path(f"{number}.idx"), _NEW, 0o666)
            self._end = 0
            return

    def _close_segment(self) -> None:
        for fd in (self._segment, self._index):
            if fd >= 0:
                os.close(fd)
        self._segment = self._index = -1

    def _path(self, ending: str) -> Path:
        return self._directory / f"{self._worker}.{ending}"


def was_begun(workspace: str, node: int, sample: int, claim: int) -> bool:
    """Whether some worker had this sample in hand, by another claim, and did not run anything else after it."""
    for path in packed_dir(workspace).glob("*.now"):
        cells = path.read_bytes()
        whole = cells[: len(cells) // _CELL.size * _CELL.size]
        if any(one[:2] == (node, sample) and one[2] != claim for one in _CELL.iter_unpack(whole)):
            return True
    return False


def read_packed(workspace: str, node: int, ranges: Iterable[tuple[int, int]]) -> Iterator[Packed]:
    """Of each sample of a node, in half-open ranges, the execution that counts. What is in memory is a block of them.

    Raises:
        WorkspaceError: an index can't be read.
    """
    for low, high in ranges:
        for first in range(low, high, _BLOCK_SAMPLES):
            yield from _read_block(workspace, node, first, min(high, first + _BLOCK_SAMPLES))


def _read_block(workspace: str, node: int, low: int, high: int) -> Iterator[Packed]:
    best: dict[int, Packed] = {}
    for index in sorted(packed_dir(workspace).glob("*.idx")):
        for one in _read_index(index, node, low, high):
            known = best.get(one.sample)
            if known is None or known.claim <= one.claim:
                best[one.sample] = one
    for sample in sorted(best):
        yield best[sample]


def _read_index(path: Path, node: int, low: int, high: int) -> Iterator[Packed]:
    segment = path.with_suffix(".seg")
    try:
        whole = path.stat().st_size // RECORD_BYTES
        size_bytes = segment.stat().st_size
        if whole == 0:
            return
        records = np.memmap(path, _records_dtype(), mode="r", shape=(whole,))
    except OSError as error:
        raise WorkspaceError(f"'{path}' can't be read: {error.strerror}.") from error
    samples = records["sample"]
    meant = (records["node"] == node) & (samples >= low) & (samples < high)
    for row in np.flatnonzero(meant).tolist():
        body = records[row].tobytes()
        if zlib.crc32(body[: _RECORD.size]) != _CHECKSUM.unpack_from(body, _RECORD.size)[0]:
            continue
        own, attempt, sample, claim, offset, out, err, code = _RECORD.unpack_from(body)
        if offset + out + err <= size_bytes:
            yield Packed(own, attempt, sample, claim, offset, out, err, code, str(segment))


@functools.cache
def _records_dtype() -> np.dtype[np.void]:
    return np.dtype([
        ("node", "<u4"), ("attempt", "<u4"), ("sample", "<u8"), ("claim", "<u8"), ("offset", "<u8"), ("out", "<u8"),
        ("err", "<u8"), ("code", "<i4"), ("crc", "<u4"),
    ])  # fmt: skip
