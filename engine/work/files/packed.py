"""`files: packed`: a sample has nothing of its own. It runs in a scratch directory of its slot; its output is appended
to a segment of its worker (`segments`), and all else that it leaves is deleted.

Scratch directories are in the temporary directory of the machine (TMPDIR), so that a shared file system has no work
with them. A worker that is killed leaves them there; the next one on the machine removes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections import OrderedDict
from pathlib import Path

import anyio.lowlevel

from mrun.engine.work.files.scripts import PassedScript, ScriptPasser
from mrun.engine.work.files.way import ClaimedSample, SampleFiles
from mrun.engine.work.script_memory import ScriptMemory
from mrun.engine.workspace.descriptors import high, size_of
from mrun.engine.workspace.segments import Packed, SegmentWriter, was_begun

#: Workspaces whose segments stay open; the least recently used is closed, and goes on in a new segment.
_WORKSPACES_MOST = 16
_PREFIX = "mrun-scratch-"
#: So many files are deleted at once: the event loop waits for it.
_DELETED_AT_ONCE = 256
_OPEN = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC


class Scratch:
    """Where one sample at a time runs."""

    def __init__(self, number: int, scratch: str) -> None:
        self.directory = f"{scratch}/{number}"
        self.memory = ScriptMemory()
        os.mkdir(self.directory)
        self.out = high(os.open(f"{self.directory}.out", _OPEN, 0o600))
        try:
            self.err = high(os.open(f"{self.directory}.err", _OPEN, 0o600))
        except OSError:
            os.close(self.out)
            raise

    def clear(self) -> bool:
        """Delete all that a sample left. False if that can't be done."""
        try:
            for name in os.listdir(self.directory):
                path = f"{self.directory}/{name}"
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path)
                else:
                    os.unlink(path)
            for fd in (self.out, self.err):
                if size_of(fd):
                    os.ftruncate(fd, 0)
        except OSError:
            return False
        return True

    async def clear_by_turns(self) -> None:
        """Delete what may be many files; other duties of the worker, and first of all its beat, have their turn."""
        with contextlib.suppress(OSError):
            if not os.listdir(self.directory):
                return
            for path, directories, files in os.walk(self.directory, topdown=False):
                names = [*files, *directories]
                # At least once: an empty directory has cost a look, too.
                for at in range(0, len(names) + 1, _DELETED_AT_ONCE):
                    for name in names[at : at + _DELETED_AT_ONCE]:
                        _delete(f"{path}/{name}")
                    await anyio.lowlevel.checkpoint()

    def close(self) -> None:
        """It is used no more."""
        os.close(self.out)
        os.close(self.err)
        self.memory.release()


class PackedSample(SampleFiles, kw_only=True):
    """A sample that has nothing of its own."""

    way: PackedFiles
    passed: PassedScript
    scratch: Scratch
    #: While it runs: the cell that says so. There are as many as samples run at once, fewer than scratch directories.
    cell: int = -1
    #: Somebody may still write to its files, and read its script.
    is_shared: bool = False

    def enter(self) -> None:
        """A cell that names it, and the script if it is a file."""
        self.cell = self.way.take_cell()
        claim = self.sample.claim
        self.way.writer(self.sample.workspace).began(self.cell, claim.node, self.sample.number, claim.number)
        self.passed.put()

    def drop(self) -> None:
        """The scratch directory is free."""
        self.way.put_back(self.scratch)

    async def keep(self, code: int, *, is_finished: bool, is_lost: bool, is_shared: bool) -> None:
        """Append what it wrote to the segment."""
        claim, scratch = self.sample.claim, self.scratch
        out, err = size_of(scratch.out), size_of(scratch.err)
        packed = Packed(claim.node, claim.attempt, self.sample.number, claim.number, 0, out, err, code)
        self.is_shared = is_shared
        await self.way.writer(self.sample.workspace).append(packed, scratch.out, scratch.err)
        if not is_shared:
            await scratch.clear_by_turns()

    def release(self) -> None:
        """Empty the scratch directory for the next sample. The cell names this one until another takes it."""
        self.passed.remove()
        self.way.put_back_cell(self.cell)
        if not self.is_shared and self.scratch.clear():
            self.way.put_back(self.scratch)
        else:
            self.scratch.close()


class PackedFiles:
    """Segments, and scratch directories."""

    def __init__(self, worker: str, *, is_local: bool) -> None:
        self._worker = worker
        self._scripts = ScriptPasser(is_local=is_local)
        self._writers: OrderedDict[str, SegmentWriter] = OrderedDict()
        self._scratch_dir = ""
        self._scratch_fd = -1
        self._free: list[Scratch] = []
        self._made = 0
        #: The last one to be freed is taken first, so that it does not tell for long of a sample that has ended.
        self._free_cells: list[int] = []
        self._cells_made = 0

    def prepare(self, sample: ClaimedSample) -> PackedSample:
        """A scratch directory and a script. That another worker ran it last says that an execution began."""
        claim, workspace = sample.claim, sample.workspace
        self._scripts.keep_for_people(sample)
        is_resumed = sample.resumes or (
            sample.may_have_started and was_begun(workspace, claim.node, sample.number, claim.number)
        )
        scratch = self._free_scratch() or self._new_scratch()
        try:
            passed = self._scripts.give(sample, scratch.directory, scratch.memory, is_resumed=is_resumed)
        except BaseException:
            self._free.append(scratch)
            raise
        return PackedSample(
            sample=sample, directory=scratch.directory, script=passed.path, interpreter=passed.interpreter,
            out=scratch.out, err=scratch.err, is_resumed=is_resumed, ends_group=True, way=self, passed=passed,
            scratch=scratch,
        )  # fmt: skip

    def put_back(self, scratch: Scratch) -> None:
        """No sample uses it any more."""
        self._free.append(scratch)

    def take_cell(self) -> int:
        """A cell that names no sample that runs."""
        if not self._free_cells:
            self._free_cells.append(self._cells_made)
            self._cells_made += 1
        return self._free_cells.pop()

    def put_back_cell(self, cell: int) -> None:
        """Its sample has ended."""
        self._free_cells.append(cell)

    def close(self) -> None:
        """Close the segments and remove the scratch directories."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        for scratch in self._free:
            scratch.close()
        self._free.clear()
        if self._scratch_dir:
            shutil.rmtree(self._scratch_dir, ignore_errors=True)
            os.close(self._scratch_fd)
            self._scratch_dir = ""

    def writer(self, workspace: str) -> SegmentWriter:
        """Where the output of a workspace's samples goes."""
        writer = self._writers.get(workspace)
        if writer is None:
            if len(self._writers) >= _WORKSPACES_MOST:
                self._close_oldest()
            writer = self._writers[workspace] = SegmentWriter(workspace, self._worker)
        else:
            self._writers.move_to_end(workspace)
        return writer

    def _close_oldest(self) -> None:
        for workspace, writer in self._writers.items():
            if not writer.turn.locked():
                del self._writers[workspace]
                writer.close()
                return

    def _free_scratch(self) -> Scratch | None:
        while self._free:
            scratch = self._free.pop()
            if os.path.isdir(scratch.directory):
                return scratch
            # A script emptied the temporary directory.
            scratch.close()
        return None

    def _new_scratch(self) -> Scratch:
        if self._scratch_dir and not os.path.isdir(self._scratch_dir):
            os.close(self._scratch_fd)
            self._scratch_dir = ""
        if not self._scratch_dir:
            _remove_abandoned()
            directory = tempfile.mkdtemp(prefix=_PREFIX)
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            # Held as long as this process lives: who can take it, may delete the directory.
            fcntl.flock(fd, fcntl.LOCK_EX)
            self._scratch_dir, self._scratch_fd = directory, fd
        self._made += 1
        return Scratch(self._made - 1, self._scratch_dir)


def _delete(path: str) -> None:
    """A file, a link, or a directory that is empty; if that can't be, it stays."""
    with contextlib.suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            os.rmdir(path)
        else:
            os.unlink(path)


def _remove_abandoned() -> None:
    """Delete the scratch directories of this user's workers that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.stat().st_uid != os.getuid():
                continue
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(fd)
