"""A `.csv` or `.tab` table → UTF-8 cells back to back and the offsets where they begin, streamed once.

Memory is bounded by a chunk, whatever the size of the table.
"""

from __future__ import annotations

import csv
import itertools
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

from mrun.engine.errors import Problem, SpecError
from mrun.engine.plan.model import SampleTable

#: Hears of what is let pass.
Warn = Callable[[str], None]

CELLS_FILE = "samples.utf8"
OFFSETS_FILE = "samples.offsets.npy"

#: Cells that are held in memory before they are written.
_CHUNK_CELLS = 1 << 16

#: Room for the header of the offsets' file. It is written last, when the count is known.
_HEADER_BYTES = 128


def check_width(path: str, width: int, columns: Sequence[str], warn: Warn | None = None) -> None:
    """Compare a file's columns with the labels.

    Args:
        warn: hears of a difference that is let pass: columns without a label are left out, labels without a column
            are empty.

    Raises:
        SpecError: if they are not as many, and there is no `warn`.
    """
    if width != len(columns) and warn is not None:
        what = "those without a label are left out" if width > len(columns) else "labels without a column are empty"
        warn(f"The sample file has {width} columns, and column_labels names {len(columns)}: {what}.")
    elif width != len(columns):
        message = f"The sample file '{path}' has {width} columns, and column_labels names {len(columns)}."
        raise SpecError([Problem(message, path, hint="Give one label per column.")])


def first_row(path: str, delimiter: str) -> list[str]:
    """The cells of a text table's first row; none if it is empty. Raises as `convert_text`."""
    with open(path, encoding="utf-8-sig", newline="") as source:
        return next(_rows(source, path, delimiter), [])


def convert_text(
    path: str, columns: tuple[str, ...], converted_dir: str, delimiter: str, warn: Warn | None = None
) -> SampleTable:
    """Write the two files into the directory, and describe the table. They appear whole, or not at all.

    Raises:
        SpecError: for uneven rows, another number of columns than labels, the labels as a first row, no rows, or text
            that is not UTF-8.
        OSError: if a file can't be read or written.
    """
    cells_path = Path(converted_dir, CELLS_FILE)
    offsets_path = Path(converted_dir, OFFSETS_FILE)
    partial_paths = (Path(f"{cells_path}.partial"), Path(f"{offsets_path}.partial"))
    try:
        with (
            open(path, encoding="utf-8-sig", newline="") as source,
            open(partial_paths[0], "wb") as cells,
            open(partial_paths[1], "wb") as offsets,
        ):
            rows = _with_width(_rows(source, path, delimiter), columns, path, warn)
            count = _write(rows, columns, path, (cells, offsets))
        partial_paths[0].replace(cells_path)
        partial_paths[1].replace(offsets_path)
    finally:
        for partial_path in partial_paths:
            partial_path.unlink(missing_ok=True)
    stat = cells_path.stat()
    return SampleTable(
        kind="text",
        path=str(cells_path),
        count=count,
        columns=columns,
        size_bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        offsets_path=str(offsets_path),
    )


class _Lines:
    """The lines of a table without comments and blank lines, and the number of the last one given.

    A `#` between double quotes begins no comment, and a blank line between them is part of a cell.
    """

    def __init__(self, source: TextIO, delimiter: str) -> None:
        self._source = source
        self.delimiter = delimiter
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        is_quoted = False
        for line in self._source:
            self.number += 1
            was_quoted = is_quoted
            if "#" in line or '"' in line:
                line, is_quoted = self._without_comment(line, is_quoted)
            if was_quoted or is_quoted:
                yield line
            elif line.strip():
                # Runs of blanks separate cells where one blank does, but for those at the ends of a line.
                yield line.strip() if self.delimiter == " " else line

    def _without_comment(self, line: str, is_quoted: bool) -> tuple[str, bool]:
        """The line up to its comment, and whether a quoted cell goes on after it.

        As for the csv module, a quote opens a cell only at its beginning, and two within it are one.
        """
        is_begin = not is_quoted
        position = 0
        while position < len(line):
            character = line[position]
            if is_quoted and line.startswith('""', position):
                position += 1
            elif character == '"' and (is_quoted or is_begin):
                is_quoted = not is_quoted
            elif character == "#" and not is_quoted:
                return line[:position], False
            is_begin = character == self.delimiter and not is_quoted
            position += 1
        return line, is_quoted


def _rows(source: TextIO, path: str, delimiter: str) -> Iterator[list[str]]:
    """The rows' cells, stripped of surrounding blanks. All rows are as long as the first."""
    width = 0
    lines = _Lines(source, delimiter)
    try:
        if delimiter == "\t" and not _has_tabs(source):
            lines = _Lines(source, " ")
        for row in csv.reader(lines, delimiter=lines.delimiter, skipinitialspace=lines.delimiter == " "):
            width = width or len(row)
            if len(row) != width:
                message = (
                    f"Line {lines.number} of the sample file '{path}' has {len(row)} cells, the first row {width}."
                )
                raise SpecError([Problem(message, path, lines.number)])
            yield [cell.strip() for cell in row]
    except csv.Error as error:
        message = f"Line {lines.number} of the sample file '{path}' can't be read: {error}."
        raise SpecError([Problem(message, path, lines.number)]) from error
    except UnicodeDecodeError as error:
        message = f"The sample file '{path}' is not UTF-8 text after line {lines.number}."
        raise SpecError([Problem(message, path, lines.number + 1)]) from error


def _with_width(
    rows: Iterator[list[str]], columns: tuple[str, ...], path: str, warn: Warn | None
) -> Iterator[list[str]]:
    """The rows, each with one cell for each label."""
    first = next(rows, None)
    if first is None:
        return
    check_width(path, len(first), columns, warn)
    _check_header(path, first, columns, warn)
    for row in itertools.chain([first], rows):
        yield [*row, *[""] * (len(columns) - len(row))][: len(columns)]


def _check_header(path: str, first: Sequence[str], columns: Sequence[str], warn: Warn | None) -> None:
    """Refuse a line of labels above the samples: it would run as one of them."""
    if [cell.casefold() for cell in first] != [column.casefold() for column in columns]:
        return
    message = f"The first row of the sample file '{path}' is the column labels, and a table has no header"
    if warn is None:
        raise SpecError([Problem(f"{message}.", path, hint="Remove that line, or begin it with '#'.")])
    warn(f"{message}: it is taken for a sample.")


def _has_tabs(source: TextIO) -> bool:
    """Whether the first row of a `.tab` file holds a tab. If not, blanks separate its cells, as they do for Merlin."""
    rows = (line.partition("#")[0].strip(" \r\n") for line in source)
    first = next((row for row in rows if row.strip()), "")
    source.seek(0)
    return "\t" in first


def _write(rows: Iterator[list[str]], columns: tuple[str, ...], path: str, files: tuple[BinaryIO, BinaryIO]) -> int:
    """Write cells and offsets, a chunk at a time.

    Returns:
        How many rows there are.
    """
    cells, offsets = files
    offsets.write(bytes(_HEADER_BYTES))
    begins = array("q", [0])
    texts: list[bytes] = []
    end = count = 0
    for row in rows:
        count += 1
        for cell in row:
            data = cell.encode()
            end += len(data)
            texts.append(data)
            begins.append(end)
        if len(texts) >= _CHUNK_CELLS:
            cells.write(b"".join(texts))
            offsets.write(begins.tobytes())
            texts.clear()
            del begins[:]
    if count == 0:
        raise SpecError([Problem(f"The sample file '{path}' holds no samples.", path)])
    cells.write(b"".join(texts))
    offsets.write(begins.tobytes())
    offsets.seek(0)
    offsets.write(_header(count * len(columns) + 1))
    return count


def _header(length: int) -> bytes:
    """The header of a .npy file of int64, shape (length,), format version 1.0.

    https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    byte_order = "<" if array("H", [1]).tobytes()[0] else ">"
    text = f"{{'descr': '{byte_order}i8', 'fortran_order': False, 'shape': ({length},), }}"
    padded = text.ljust(_HEADER_BYTES - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode("ascii")
