"""Samples, read where they are run: one row at a time, through a memory map."""

from __future__ import annotations

import itertools
import mmap
from bisect import bisect_right
from pathlib import Path
from typing import Any

from mrun.engine.errors import WorkspaceError
from mrun.engine.lazy import np, npt
from mrun.engine.plan.model import SampleTable


class SampleFileChanged(WorkspaceError):  # noqa: N818 - it says what happened, as the message does
    """The file of samples is gone, or is not the one that the study was queued with."""


class SampleReader:
    """Reads the samples of a table. Opens the file at the first read, and holds no more than a map of it.

    Not to be shared between threads until it has been opened once.
    """

    def __init__(self, table: SampleTable) -> None:
        self._table = table
        self._parts = [SampleReader(part) for part in table.parts]
        #: The first sample of each part.
        self._begins = [0, *itertools.accumulate(part.count for part in table.parts)]
        self._rows: npt.NDArray[np.generic] | None = None
        self._cells: mmap.mmap | bytes = b""
        self._offsets: npt.NDArray[np.int64] | None = None
        self._maps: list[mmap.mmap] = []

    def values(self, index: int) -> tuple[str, ...]:
        """The texts of a sample, one per column: `str()` of numpy's scalars, or the cells of a text table.

        Raises:
            SampleFileChanged: at the first read, if the file is not the one that was described; at any, if it was cut.
            IndexError: if there is no such sample.
        """
        if not 0 <= index < self._table.count:
            message = f"There is no sample {index}: the table has {self._table.count}."
            raise IndexError(message)
        if self._parts:
            part = bisect_right(self._begins, index) - 1
            return self._parts[part].values(index - self._begins[part])
        if self._rows is None and self._offsets is None:
            self._open()
        self._check_whole()
        if self._rows is not None:
            row = self._rows[index]
            width = len(self._table.columns)
            texts = [_text(value) for value in row[:width]] if row.ndim else [_text(row)]
            # Fewer columns than labels were let pass when the study was queued.
            return (*texts, *[""] * (width - len(texts)))
        assert self._offsets is not None
        width = len(self._table.columns)
        ends = self._offsets[index * width : (index + 1) * width + 1].tolist()
        return tuple(self._cells[ends[i] : ends[i + 1]].decode() for i in range(width))

    def verify(self) -> None:
        """Compare size and time of the file with those that the plan has. Cheap: once per claim is not too often.

        Raises:
            SampleFileChanged: if they differ, or the file is gone.
        """
        for part in self._parts:
            part.verify()
        if self._parts:
            return
        path = self._table.path
        try:
            stat = Path(path).stat()
        except OSError as error:
            raise SampleFileChanged(f"The sample file '{path}' can't be read: {error.strerror}.") from error
        if (stat.st_size, stat.st_mtime_ns) != (self._table.size_bytes, self._table.mtime_ns):
            message = f"The sample file '{path}' was changed after the study was queued."
            raise SampleFileChanged(message, hint="Put the old file back, or queue the study again.")

    def close(self) -> None:
        """Let go of the file. The next read opens it again."""
        self._rows = self._offsets = None
        self._cells = b""
        self._maps = []
        for part in self._parts:
            part.close()

    def _check_whole(self) -> None:
        """Reading what a file was cut short by would kill this process (SIGBUS). Asks the kernel, and no path."""
        for one in self._maps:
            if one.size() < len(one):
                raise SampleFileChanged(
                    f"The sample file '{self._table.path}' was cut short while the study ran.",
                    hint="Put the old file back, or queue the study again.",
                )

    def _open(self) -> None:
        self.verify()
        table = self._table
        try:
            if table.kind == "npy":
                rows = self._mapped(table.path)
                if len(rows) != table.count or rows.dtype.str != table.dtype:
                    raise SampleFileChanged(f"The sample file '{table.path}' has another shape or type than it had.")
                self._rows = rows
                return
            offsets = self._mapped(table.offsets_path)
            if len(offsets) != table.count * len(table.columns) + 1:
                raise SampleFileChanged(f"The file '{table.offsets_path}' does not belong to the study's samples.")
            with open(table.path, "rb") as file:
                # A map can't be empty; a table of empty cells is.
                self._cells = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if table.size_bytes else b""
            if isinstance(self._cells, mmap.mmap):
                self._maps.append(self._cells)
            self._offsets = offsets
        except (OSError, ValueError, EOFError) as error:
            raise SampleFileChanged(f"The sample file '{table.path}' can't be read: {error}.") from error

    def _mapped(self, path: str) -> npt.NDArray[Any]:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(mapped.base, mmap.mmap):
            self._maps.append(mapped.base)
        return np.asarray(mapped)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
