"""The table of samples at queue time: where it should be, what would generate it, and opening it without reading it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mrun.engine.errors import Problem, SpecError
from mrun.engine.lazy import np
from mrun.engine.plan.model import SampleTable
from mrun.engine.spec.merlin_block import SAMPLE_EXTENSIONS
from mrun.engine.spec.model import Spec, Text, Tree
from mrun.engine.table.convert import Warn, check_width, convert_text

#: From this size on a given file is linked into the workspace. A worker notices if it is changed there.
_LINKED_BYTES = 64 << 20


class SamplesRequest(msgspec.Struct, frozen=True):
    """The samples that a study asks for.

    `paths` are where the file may be, best first, all absolute; a generated one is expected at any of them. `generate`
    is the script that makes the file, in `shell`, or None.
    """

    paths: tuple[str, ...]
    columns: tuple[str, ...]
    generate: str | None
    shell: str


def with_samples_file(spec: Spec, path: str) -> Spec:
    """The spec with its samples taken from a copy of that file in merlin_info, instead of its own file or `generate`.

    Raises:
        SpecError: the spec has no samples, or the file has another ending than a table's.
    """
    if spec.samples is None or not isinstance(spec.tree, dict):
        hint = "Add merlin.samples with column_labels."
        raise SpecError([Problem("--samplesfile was given, and the spec has no samples.", spec.shown_path, hint=hint)])
    if Path(path).suffix.lower() not in SAMPLE_EXTENSIONS:
        message = f"The sample file '{path}' is neither .npy nor .csv nor .tab."
        raise SpecError([Problem(message, path, hint="Save it as one of them.")])
    file = Text(f"$(MERLIN_INFO)/{copy_name(path)}")
    samples = msgspec.structs.replace(spec.samples, file=file, generate=None)
    block = "merlin" if "merlin" in spec.tree else "mrun"
    merlin = spec.tree[block]
    assert isinstance(merlin, dict)
    assert isinstance(merlin["samples"], dict)
    own = {key: value for key, value in merlin["samples"].items() if key != "generate"}
    tree: Tree = {**spec.tree, block: {**merlin, "samples": {**own, "file": file}}}
    return msgspec.structs.replace(spec, samples=samples, tree=tree)


def copy_name(path: str) -> str:
    """The name of a given file's copy: its own, unless that would be read as a variable."""
    name = Path(path).name
    return f"samples{Path(path).suffix}" if "$" in name else name


def bring_samples(path: str, info_dir: str) -> None:
    """Copy a given file into merlin_info. A large one is linked where it can be, for a second copy may have no room.

    Raises:
        SpecError: it can't be read, or not be copied.
    """
    target = os.path.join(info_dir, copy_name(path))
    try:
        if os.path.getsize(path) >= _LINKED_BYTES:
            with contextlib.suppress(OSError):
                os.link(os.path.realpath(path), target)
                return
        shutil.copyfile(path, target)
    except OSError as error:
        message = f"The sample file '{path}' can't be copied to '{target}': {error.strerror}."
        raise SpecError([Problem(message, path)]) from error


def open_samples(
    path: str | Path, columns: Sequence[str], converted_dir: str | Path, warn: Warn | None = None
) -> SampleTable:
    """Describe the table in a file. `.npy` costs the same for any number of rows; `.csv` and `.tab` are streamed once.

    Args:
        path: a `.npy`, `.csv` or `.tab` file.
        columns: the label of each column.
        converted_dir: an existing directory, for the converted text of a `.csv` or `.tab` file.
        warn: hears of another number of columns than labels, which is an error without it.

    Raises:
        SpecError: if the file is missing, broken, empty, or not a table with so many columns.
    """
    path = str(Path(path).absolute())
    kind = Path(path).suffix.lower()
    try:
        if kind == ".npy":
            return _open_npy(path, tuple(columns), warn)
        if kind in (".csv", ".tab"):
            return convert_text(path, tuple(columns), str(converted_dir), "," if kind == ".csv" else "\t", warn)
    except OSError as error:
        message = f"The sample file '{path}' can't be read: {error.strerror or error}."
        raise SpecError([Problem(message, path)]) from error
    message = f"The sample file '{path}' is neither .npy nor .csv nor .tab."
    raise SpecError([Problem(message, path, hint="Save it as one of them.")])


def _open_npy(path: str, columns: tuple[str, ...], warn: Warn | None) -> SampleTable:
    shape, dtype = _read_header(path)
    if dtype.hasobject or dtype.names is not None or dtype.kind == "V" or dtype.subdtype is not None:
        raise _unfit(path, f"holds values of type '{dtype}'", "Use numbers, booleans or strings.")
    if len(shape) not in (1, 2):
        raise _unfit(path, f"has {len(shape)} dimensions", "Use one or two.")
    count = shape[0]
    width = shape[1] if len(shape) == 2 else 1
    if count <= 0 or width <= 0:
        raise _unfit(path, "holds no samples")
    check_width(path, width, columns, warn)
    stat = Path(path).stat()
    return SampleTable(
        kind="npy",
        path=path,
        count=count,
        columns=columns,
        size_bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        dtype=dtype.str,
    )


def _read_header(path: str) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and type, from the file's first bytes. The size of the rest is compared, not read."""
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            is_first = version == (1, 0)
            # Version 3 differs from 2 only in the encoding of field names, and tables with fields are refused.
            read = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        except (ValueError, EOFError) as error:
            raise _unfit(path, f"is not a .npy file ({error})") from error
        needed = file.tell() + dtype.itemsize * int(np.prod(shape, dtype=object))
        has_all = os.fstat(file.fileno()).st_size >= needed
    if not has_all:
        raise _unfit(path, f"is shorter than its own header says ({needed} bytes)", "It may still be being written.")
    return tuple(int(length) for length in shape), dtype


def _unfit(path: str, what: str, hint: str = "") -> SpecError:
    return SpecError([Problem(f"The sample file '{path}' {what}.", path, hint=hint)])


def value_kind(table: SampleTable) -> str:
    """Of what kind its values are, in words: that decides how they look in a script, as 3 or as 3.0."""
    if table.parts:
        return value_kind(table.parts[0])
    kinds = {"i": "integers", "u": "integers", "f": "decimal numbers", "b": "booleans"}
    return "text" if table.kind == "text" else kinds.get(np.dtype(table.dtype).kind, "text")
