"""What a later run of a study begins with: `mrun_info/run-<n>.npz`, arrays that numpy can read.

`fates` holds those of all nodes behind one another, `sizes` how many each node has, `since` the highest claim number
that is in it. Written and read in pieces: of a hundred million samples that never ran, pages of zeros stay untouched.
One array for each node, as mrun 0.1 wrote them, took seconds for fifty thousand nodes; such a file is still read.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, TypeAlias

from mrun.engine.atomic_file import replaced_file
from mrun.engine.errors import WorkspaceError
from mrun.engine.language.places import JOURNAL_DIR
from mrun.engine.lazy import np, npt
from mrun.engine.plan.model import Plan

#: For each node an array of `Fate` (history.py), uint8, shape (samples of the node,).
Fates: TypeAlias = "list[npt.NDArray[np.uint8]]"

_PIECE_BYTES = 1 << 20
#: Of what is mostly alike, higher levels take three times as long for nothing.
_COMPRESSION = 1
#: What zipfile and numpy raise for a damaged archive; RuntimeError where a bit says that it is encrypted, or compressed
#: in a way that they do not know.
_DAMAGES = (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def write_base(plan: Plan, run: int, fates: Fates, since: int) -> None:
    """Write what a run begins with: claims up to number `since` are in it, and do not count any more.

    Raises:
        WorkspaceError: the workspace can't be written.
    """
    path = _path(plan, run)
    total = sum(len(own) for own in fates)
    try:
        with (
            replaced_file(path) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION) as archive,
        ):
            _write_array(archive, "since", np.array(since, np.int64))
            _write_array(archive, "sizes", np.array([len(own) for own in fates], np.int64))
            with archive.open("fates.npy", "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": (total,)}
                np.lib.format.write_array_header_1_0(member, header)
                for own in fates:
                    member.write(own.data)
    except OSError as error:
        raise WorkspaceError(f"'{path}' can't be written: {error.strerror}.") from error


def read_base(plan: Plan, run: int) -> tuple[Fates, int]:
    """What a run began with, and the highest claim number that is in it. The first one began with nothing.

    Raises:
        WorkspaceError: it is missing, or damaged.
    """
    fates = [np.zeros(plan.size(plan.steps[node.step]), np.uint8) for node in plan.nodes]
    if run == 1:
        return fates, 0
    path = _path(plan, run)
    try:
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as arrays:
            if "sizes" not in arrays:
                _take_arrays(arrays, fates)
                return fates, int(arrays["since"])
            with archive.open("fates.npy") as member:
                np.lib.format.read_magic(member)
                np.lib.format.read_array_header_1_0(member)
                for own, size in zip(fates, arrays["sizes"].tolist(), strict=True):
                    _read_into(own, size, member)
                if member.read(1):
                    raise ValueError("it is longer than it says")
            return fates, int(arrays["since"])
    except _DAMAGES as error:
        raise WorkspaceError(f"'{path}' can't be read: {error}.", hint="Queue the study again.") from error


def _write_array(archive: zipfile.ZipFile, name: str, array: npt.NDArray[np.int64]) -> None:
    with archive.open(f"{name}.npy", "w") as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def _read_into(own: npt.NDArray[np.uint8], size: int, member: IO[bytes]) -> None:
    """The first `size` fates of a node: samples that were added while the run went on are not in its base."""
    for at in range(0, size, _PIECE_BYTES):
        wanted = min(_PIECE_BYTES, size - at)
        part = np.frombuffer(member.read(wanted), np.uint8)
        if len(part) < wanted:
            raise ValueError("it is shorter than it says")
        if part.any():
            own[at : at + wanted] = part


def _take_arrays(arrays: Any, fates: Fates) -> None:
    for node, own in enumerate(fates):
        begun = arrays[str(node)]
        own[: len(begun)] = begun


def _path(plan: Plan, run: int) -> Path:
    return Path(plan.workspace, JOURNAL_DIR, f"run-{run}.npz")
