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

from mrun.engine.work.files import Ended, Instance, Ready, make_directory
from mrun.engine.work.script_memory import ScriptMemory
from mrun.engine.work.scripts import PassedScript, ScriptPasser, keep_node_scripts
from mrun.engine.workspace.descriptors import high, size_of
from mrun.engine.workspace.segments import Packed, SegmentWriter, was_begun

#: Workspaces whose segments are kept open; the least recently used is closed, and goes on in a new segment.
_WORKSPACES_MOST = 16
_PREFIX = "mrun-scratch-"
#: So many files are deleted at once: the event loop waits for it.
_DELETED_AT_ONCE = 256
_OPEN = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC


class Bench:
    """Where one sample at a time runs."""

    def __init__(self, number: int, scratch: str) -> None:
        #: While a sample runs here: the cell that says so. There are as many as run at once, fewer than benches.
        self.cell = -1
        self.directory = f"{scratch}/{number}"
        #: Somebody may still write to its files, and read its script.
        self.is_shared = False
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
        self.memory.let_go()


class PackedReady(Ready, frozen=True):
    """With what is to be taken back at the end."""

    passed: PassedScript
    bench: Bench


class PackedFiles:
    """Segments, and scratch directories."""

    def __init__(self, worker: str, *, is_local: bool) -> None:
        self._worker = worker
        self._scripts = ScriptPasser(is_local=is_local)
        self._writers: OrderedDict[str, SegmentWriter] = OrderedDict()
        self._scratch = ""
        self._scratch_fd = -1
        self._free: list[Bench] = []
        self._made = 0
        #: The last one to be freed is taken first, so that it does not tell for long of a sample that has ended.
        self._free_cells: list[int] = []
        self._cells_made = 0
        self._node: object = None

    def prepare(self, instance: Instance) -> PackedReady:
        """A bench and a script. That another worker ran it last says that an execution began."""
        text, claim, plan = instance.text, instance.claim, instance.study.plan
        if text is not self._node:
            make_directory(text.directory, plan.workspace)
            keep_node_scripts(text, plan.samples.columns if plan.samples else ())
            self._node = text
        is_resumed = instance.resumes or (
            instance.may_have_started and was_begun(plan.workspace, claim.node, instance.sample, claim.number)
        )
        bench = self._free_bench() or self._new_bench()
        try:
            passed = self._scripts.give(instance, bench.directory, bench.memory, is_resumed=is_resumed)
        except BaseException:
            self._free.append(bench)
            raise
        return PackedReady(
            *(instance, bench.directory, passed.path, passed.interpreter, bench.out, bench.err, is_resumed),
            ends_group=True, passed=passed, bench=bench,
        )  # fmt: skip

    def enter(self, ready: Ready) -> None:
        """A cell that names it, and the script if it is a file."""
        assert isinstance(ready, PackedReady)
        instance, bench = ready.instance, ready.bench
        workspace, claim = instance.study.plan.workspace, instance.claim
        if not self._free_cells:
            self._free_cells.append(self._cells_made)
            self._cells_made += 1
        bench.cell = self._free_cells.pop()
        self._writer(workspace).began(bench.cell, claim.node, instance.sample, claim.number)
        ready.passed.put()

    def drop(self, ready: Ready) -> None:
        """The bench is free."""
        assert isinstance(ready, PackedReady)
        self._free.append(ready.bench)

    async def keep(self, ready: Ready, ended: Ended) -> None:
        """Append what it wrote to the segment."""
        assert isinstance(ready, PackedReady)
        claim, bench, sample = ready.instance.claim, ready.bench, ready.instance.sample
        out, err = size_of(bench.out), size_of(bench.err)
        packed = Packed(claim.node, claim.attempt, sample, claim.number, 0, out, err, ended.end.code)
        bench.is_shared = ended.process.has_left_others
        await self._writer(ready.instance.study.plan.workspace).append(packed, bench.out, bench.err)
        if not bench.is_shared:
            await bench.clear_by_turns()

    def release(self, ready: Ready) -> None:
        """Empty the bench for the next sample."""
        assert isinstance(ready, PackedReady)
        ready.passed.remove()
        self._free_cells.append(ready.bench.cell)
        if not ready.bench.is_shared and ready.bench.clear():
            self._free.append(ready.bench)
        else:
            ready.bench.close()

    def never_ran(self, ready: Ready) -> None:
        """Nothing says that it did, but for the cell of its slot, which the next sample takes."""

    def close(self) -> None:
        """Close the segments and remove the scratch directories."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        for bench in self._free:
            bench.close()
        self._free.clear()
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
            os.close(self._scratch_fd)
            self._scratch = ""

    def _writer(self, workspace: str) -> SegmentWriter:
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

    def _free_bench(self) -> Bench | None:
        while self._free:
            bench = self._free.pop()
            if os.path.isdir(bench.directory):
                return bench
            # A script emptied the temporary directory.
            bench.close()
        return None

    def _new_bench(self) -> Bench:
        if self._scratch and not os.path.isdir(self._scratch):
            os.close(self._scratch_fd)
            self._scratch = ""
        if not self._scratch:
            _remove_abandoned()
            scratch = tempfile.mkdtemp(prefix=_PREFIX)
            fd = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            # Held as long as this process lives: who can take it, may delete the directory.
            fcntl.flock(fd, fcntl.LOCK_EX)
            self._scratch, self._scratch_fd = scratch, fd
        self._made += 1
        return Bench(self._made - 1, self._scratch)


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
