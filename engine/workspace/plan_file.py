"""The plan in the workspace, so that a study can be opened again when the server has forgotten it.

`mrun_info/study.mrun`, msgpack: version, id, run and the plan with its nodes; then a mark and the CRC-32 of all that,
for a bit that a disk has turned round must not change what is run. It lies where the scripts themselves lie, and is as
readable as they are.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from mrun.engine.atomic_file import replaced_file
from mrun.engine.errors import NotFoundError, UsageError, WorkspaceError
from mrun.engine.language.places import JOURNAL_DIR
from mrun.engine.nearest import nearest_hint
from mrun.engine.plan.model import Plan

PLAN_FILE_VERSION = 1
_FILE, _LOCK = "study.mrun", "opening.lock"
#: Stands at the end of the file, before the checksum; files of mrun 0.1 end without.
_MARK, _CHECKSUM_BYTES = b"crc:", 4


class WorkspaceStudy(msgspec.Struct, frozen=True):
    """A study as its workspace knows it. `study` is the id of its first run; `run` counts from 1."""

    version: int
    study: str
    run: int
    plan: Plan

    @property
    def key(self) -> str:
        """What the server calls this run."""
        return run_key(self.study, self.run)


def run_key(study: str, run: int) -> str:
    """The first run is called as its study; later ones have their number behind it."""
    return study if run == 1 else f"{study}.{run}"


def check_steps(plan: Plan, names: Iterable[str]) -> None:
    """See whether a study has steps of these names.

    Raises:
        NotFoundError: it has not.
    """
    there = [step.name for step in plan.steps]
    for name in names:
        if name not in there:
            raise NotFoundError(f"The study has no step '{name}'.", hint=nearest_hint(name, there))


def write_plan(study: str, run: int, plan: Plan) -> None:
    """Write it: whole, or not at all.

    Raises:
        WorkspaceError: the workspace can't be written.
    """
    path = Path(plan.workspace, JOURNAL_DIR, _FILE)
    body = msgspec.msgpack.encode(WorkspaceStudy(PLAN_FILE_VERSION, study, run, plan))
    try:
        with replaced_file(path) as file:
            file.write(body + _MARK + zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "little"))
    except OSError as error:
        raise WorkspaceError(f"'{path}' can't be written: {error.strerror}.") from error


def read_plan(workspace: str | Path) -> WorkspaceStudy:
    """The study of a workspace.

    Raises:
        NotFoundError: it is no workspace of mrun.
        WorkspaceError: the file is damaged, or of another version.
    """
    found = _read(workspace)
    # Where it lies now: it may have been moved, or be seen under another path on this host.
    plan = msgspec.structs.replace(found.plan, workspace=str(Path(workspace).resolve()))
    return msgspec.structs.replace(found, plan=plan)


@contextlib.contextmanager
def opened(workspace: str | Path) -> Iterator[WorkspaceStudy]:
    """The study of a workspace that is to be opened again, or to grow: by this process, and meanwhile by no other.

    Two that did so at once would write the same files and lay down the same run. A host that can't lock files there
    keeps nobody out.

    Raises:
        UsageError: another process is about to.
        WorkspaceError: it was moved from where it was queued, is a copy, or can't be written. And as `read_plan`.
    """
    _read_in_place(workspace)
    path = Path(workspace, JOURNAL_DIR, _LOCK)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise WorkspaceError(f"'{path}' can't be written: {error.strerror}.") from error
    try:
        with contextlib.suppress(OSError):
            _lock(fd, workspace)
        # Only now: another one may have opened it meanwhile.
        yield _read_in_place(workspace)
    finally:
        os.close(fd)


def _lock(fd: int, workspace: str | Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(
            f"Another command is about to open the study of '{workspace}' again.",
            hint="Let it end, then look: mrun status",
        ) from error


def _read_in_place(workspace: str | Path) -> WorkspaceStudy:
    """Its scripts and sample tables name the directory where it was queued."""
    found, path = _read(workspace), Path(workspace).resolve()
    queued_at = Path(found.plan.workspace)
    try:
        is_there = queued_at.samefile(path)
    except OSError:
        is_there = False
    if not is_there:
        # Refused: putting the new path into the texts. A script may have got the old one from a file, or in part.
        raise WorkspaceError(
            f"'{path}' was moved, or copied: its scripts name '{queued_at}', where it was queued.",
            hint=f"Name '{queued_at}'; or queue its spec for a study of its own."
            if os.path.lexists(queued_at)
            else f"Move it back, or leave a link: ln -s {shlex.quote(str(path))} {shlex.quote(str(queued_at))}",
        )
    return found


def _read(workspace: str | Path) -> WorkspaceStudy:
    path = Path(workspace, JOURNAL_DIR, _FILE)
    try:
        found = msgspec.msgpack.decode(_checked(path.read_bytes()), type=WorkspaceStudy)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"'{workspace}' is no workspace of a study: it has no '{JOURNAL_DIR}/{_FILE}'.",
            hint="Name the directory that `mrun queue` printed.",
        ) from error
    except (OSError, ValueError) as error:
        # ValueError: msgspec's, that of texts that are none, and our own.
        raise WorkspaceError(f"'{path}' can't be read: {error}.", hint="Queue the study again.") from error
    if found.version != PLAN_FILE_VERSION:
        raise WorkspaceError(f"'{path}' was written by another version of mrun.", hint="Use the version that wrote it.")
    return found


def _checked(data: bytes) -> bytes:
    """The file without its checksum."""
    body, mark = data[: -len(_MARK) - _CHECKSUM_BYTES], data[-len(_MARK) - _CHECKSUM_BYTES : -_CHECKSUM_BYTES]
    if mark != _MARK:
        return data
    if zlib.crc32(body) != int.from_bytes(data[-_CHECKSUM_BYTES:], "little"):
        message = "its checksum is another one"
        raise ValueError(message)
    return body
