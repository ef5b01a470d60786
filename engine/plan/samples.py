"""The table of samples at queue time: where it should be, what would generate it, and opening it without reading it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from mrun.engine.errors import Problem, SpecError
from mrun.engine.plan.compile import study_resolver
from mrun.engine.plan.convert import check_width, convert_text
from mrun.engine.plan.findings import Findings
from mrun.engine.plan.model import SampleTable
from mrun.engine.plan.places import Place
from mrun.engine.spec.model import Spec

_NPY_MAGIC = b"\x93NUMPY"


class SamplesRequest(msgspec.Struct, frozen=True):
    """The samples that a study asks for.

    `paths` are where the file may be, best first, all absolute; a generated one is expected at any of them. `generate`
    is the script that makes the file, in `shell`, or None.
    """

    paths: tuple[str, ...]
    columns: tuple[str, ...]
    generate: str | None
    shell: str
    level_max_dirs: int


def samples_request(spec: Spec, place: Place) -> SamplesRequest | None:
    """What to open, and what to run if it is not there; None for a study without samples.

    Raises:
        SpecError: for tokens that have no value here.
    """
    samples = spec.samples
    if samples is None:
        return None
    findings = Findings(spec.path)
    resolver = study_resolver(spec, place, findings)
    file = resolver.study_text(samples.file, "merlin.samples.file").strip()
    columns = tuple(resolver.study_text(label, "column_labels") for label in samples.column_labels)
    script = samples.generate
    generate = resolver.study_text(script, "merlin.samples.generate.cmd", is_script=True) if script else None
    shell = resolver.study_text(spec.batch.shell, "batch.shell").strip()
    findings.raise_problems()
    paths = dict.fromkeys(os.path.normpath(os.path.join(base, file)) for base in (place.workspace, place.cwd))
    return SamplesRequest(tuple(paths), columns, generate, shell, samples.level_max_dirs)


def open_samples(path: str | Path, columns: Sequence[str], converted_dir: str | Path) -> SampleTable:
    """Describe the table in a file. `.npy` costs the same for any number of rows; `.csv` and `.tab` are streamed once.

    Args:
        path: a `.npy`, `.csv` or `.tab` file.
        columns: the label of each column.
        converted_dir: an existing directory, for the converted text of a `.csv` or `.tab` file.

    Raises:
        SpecError: if the file is missing, broken, empty, or not a table with so many columns.
    """
    path = str(Path(path).absolute())
    kind = Path(path).suffix.lower()
    try:
        if kind == ".npy":
            return _open_npy(path, tuple(columns))
        if kind in (".csv", ".tab"):
            return convert_text(path, tuple(columns), str(converted_dir), "," if kind == ".csv" else "\t")
    except OSError as error:
        message = f"The sample file '{path}' can't be read: {error.strerror or error}."
        raise SpecError([Problem(message, path)]) from error
    message = f"The sample file '{path}' is neither .npy nor .csv nor .tab."
    raise SpecError([Problem(message, path, hint="Save it as one of them.")])


def _open_npy(path: str, columns: tuple[str, ...]) -> SampleTable:
    shape, dtype = _read_header(path)
    if dtype.hasobject or dtype.names is not None or dtype.kind == "V" or dtype.subdtype is not None:
        raise _unfit(path, f"holds values of type '{dtype}'", "Use numbers, booleans or strings.")
    if len(shape) not in (1, 2):
        raise _unfit(path, f"has {len(shape)} dimensions", "Use one or two.")
    count = shape[0]
    width = shape[1] if len(shape) == 2 else 1
    if count == 0 or width == 0:
        raise _unfit(path, "holds no samples")
    check_width(path, width, columns)
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
