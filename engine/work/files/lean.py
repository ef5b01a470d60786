"""`files: lean`: a sample has a directory of its own, and in it .out and .err if it wrote to them; nothing else.

What a sample writes goes to a file of its slot, `mrun_info/scratch/<worker>/<slot>.out`, which is renamed into the
sample's directory at its end if it is not empty. A file that stayed empty serves the next sample: so a silent sample
costs one directory. A killed worker leaves behind what its last samples had written.

To make a directory costs more than all else that has to be done between two samples. So it is made while the sample
before still runs, with a bit that says that this sample has not begun (the sticky bit, which means nothing to who owns
what is in there), and that is taken away when it starts. A worker that ends in between may leave such a directory.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import OrderedDict
from functools import partial
from pathlib import Path

from mrun.engine.language.places import JOURNAL_DIR
from mrun.engine.records import Claim
from mrun.engine.work.files.scripts import PassedScript, ScriptPasser
from mrun.engine.work.files.way import ClaimedSample, SampleFiles, keep_within, make_directory, move_aside
from mrun.engine.work.script_memory import ScriptMemory
from mrun.engine.workspace.descriptors import copy, high, size_of

#: Workspaces whose files for output stay open; the least recently used go first.
_WORKSPACES_MOST = 16
#: The bit of a directory that was made, and not entered.
_NOT_BEGUN = stat.S_ISVTX
_APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class Spool:
    """A file that takes what one stream of one running sample writes."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.fd = high(os.open(path, _APPEND, 0o666))

    def give(self, target: str) -> None:
        """The file becomes `target`, which is not there. The spool gets a new file."""
        os.rename(self._path, target)
        self._renew()

    async def append_to(self, target: str, *, is_shared: bool) -> None:
        """Add what was written to a file that is there. `is_shared`: somebody may still write; let him."""
        try:
            fd = os.open(target, _APPEND, 0o666)
        except PermissionError:
            # The script took the right away. If it is the directory's, this raises again, and `keep_within` gives it.
            os.chmod(target, stat.S_IMODE(os.stat(target).st_mode) | stat.S_IRUSR | stat.S_IWUSR)
            fd = os.open(target, _APPEND, 0o666)
        try:
            await copy(self.fd, fd, size_of(self.fd))
        finally:
            os.close(fd)
        if is_shared:
            os.unlink(self._path)
            self._renew()
        else:
            os.ftruncate(self.fd, 0)

    def remove(self) -> None:
        """No sample will write any more."""
        os.close(self.fd)
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _renew(self) -> None:
        fd = os.open(self._path, _APPEND, 0o666)
        # Under the same number: there is no moment in which a failure leaves none.
        os.dup2(fd, self.fd, inheritable=False)
        os.close(fd)


class SlotFiles:
    """What one sample at a time needs, and the next one uses again: files for its streams, memory for its script."""

    def __init__(self, stem: str) -> None:
        out = Spool(f"{stem}.out")
        try:
            self.spools = (out, Spool(f"{stem}.err"))
        except OSError:
            out.remove()
            raise
        self.memory = ScriptMemory()

    def clean(self) -> None:
        """Nothing of a sample that was killed, or whose output could not be written, may reach the next one."""
        for spool in self.spools:
            if size_of(spool.fd):
                os.ftruncate(spool.fd, 0)
        self.memory.release()

    def remove(self) -> None:
        """No sample will come any more."""
        for spool in self.spools:
            spool.remove()
        self.memory.release()


class LeanSample(SampleFiles, kw_only=True):
    """A sample with a directory of its own."""

    way: LeanFiles
    passed: PassedScript
    slot_files: SlotFiles
    #: Its directory was made ahead, and is to have this mode when it starts.
    mode: int | None
    #: It was entered, and its directory was new; its streams had something of earlier executions.
    is_new: bool = False
    had: tuple[bool, bool] = (False, False)
    #: Nothing of it is left in `slot_files`, and nobody can write to them any more.
    is_clean: bool = False

    def enter(self) -> None:
        """The directory. What was there of an execution that was lost is moved aside: it may still write."""
        sample = self.sample
        self.is_new = _enter(self.directory, sample.workspace, self.mode)
        if not self.is_new:
            out, err = sample.stream_paths
            if sample.may_have_started:
                for target in (out, err):
                    move_aside(target, sample.claim.number)
            self.had = (os.path.exists(out), os.path.exists(err))
        self.passed.put()

    def drop(self) -> None:
        """The directory stays, marked: another worker may have entered it, if the claim was lost."""
        self.way.put_back(self)

    async def keep(self, code: int, *, is_finished: bool, is_lost: bool, is_shared: bool) -> None:
        """Put what it wrote into its directory."""
        sample = self.sample
        for spool, target, had in zip(self.slot_files.spools, sample.stream_paths, self.had, strict=True):
            if is_shared or size_of(spool.fd):
                put = partial(_put_stream, spool, target, sample.claim, had=had, is_lost=is_lost, is_shared=is_shared)
                await keep_within(self.directory, sample.workspace, put)
        self.is_clean = not is_shared

    def release(self) -> None:
        """The script goes, and the files of the slot are free."""
        self.passed.remove()
        if not self.is_clean:
            self.slot_files.clean()
        self.way.put_back(self)

    def never_ran(self) -> None:
        """Take back what says that an execution began."""
        if self.is_new and self.sample.text.size > 1:
            with contextlib.suppress(OSError):
                os.rmdir(self.directory)


class LeanFiles:
    """Directories, and output that is not empty. That a directory is there says that an execution began."""

    def __init__(self, worker: str, *, is_local: bool) -> None:
        self._worker = worker
        self._scripts = ScriptPasser(is_local=is_local)
        #: For each workspace, the files that no sample uses.
        self._free: OrderedDict[str, list[SlotFiles]] = OrderedDict()
        self._made = 0

    def prepare(self, sample: ClaimedSample) -> LeanSample:
        """Files for its streams, and a script."""
        text = sample.text
        if text.size > 1:
            self._scripts.keep_for_people(sample)
        directory = text.sample_directory(sample.number)
        is_resumed = sample.resumes or (sample.may_have_started and _has_begun(directory))
        own = self._take(sample.workspace)
        mode = None if sample.may_have_started or text.size == 1 else _make_ahead(directory)
        try:
            passed = self._scripts.give(sample, directory, own.memory, is_resumed=is_resumed)
        except BaseException:
            self._free[sample.workspace].append(own)
            raise
        out, err = own.spools
        return LeanSample(
            sample=sample, directory=directory, script=passed.path, interpreter=passed.interpreter,
            out=out.fd, err=err.fd, is_resumed=is_resumed, way=self, passed=passed, slot_files=own, mode=mode,
        )  # fmt: skip

    def put_back(self, sample: LeanSample) -> None:
        """It does not use its slot's files any more."""
        free = self._free.get(sample.sample.workspace)
        if free is not None:
            free.append(sample.slot_files)
        else:
            sample.slot_files.remove()

    def close(self) -> None:
        """Remove the files of the slots."""
        while self._free:
            self._forget_oldest()

    def _take(self, workspace: str) -> SlotFiles:
        free = self._free.get(workspace)
        if free is None:
            _scratch(workspace, self._worker).mkdir(parents=True, exist_ok=True)
            free = self._free[workspace] = []
            if len(self._free) > _WORKSPACES_MOST:
                self._forget_oldest()
        else:
            self._free.move_to_end(workspace)
        if free:
            return free.pop()
        self._made += 1
        return SlotFiles(f"{_scratch(workspace, self._worker)}/{self._made}")

    def _forget_oldest(self) -> None:
        workspace, free = self._free.popitem(last=False)
        for own in free:
            own.remove()
        with contextlib.suppress(OSError):
            scratch = _scratch(workspace, self._worker)
            scratch.rmdir()
            scratch.parent.rmdir()


def _make_ahead(directory: str) -> int | None:
    """Make a directory for a sample that has not begun.

    Returns:
        What its mode will be when it begins; None if it was not made: it is there, or what is above it is not.
    """
    try:
        os.mkdir(directory, 0o777 | _NOT_BEGUN)
        mode = os.stat(directory).st_mode
        if mode & _NOT_BEGUN:
            # As the system gave it: default access lists and the group's bit of the directory above may be part of it.
            return stat.S_IMODE(mode) & ~_NOT_BEGUN
        # A file system without that bit.
        os.rmdir(directory)
    except OSError:
        pass
    return None


def _has_begun(directory: str) -> bool:
    """Whether an execution entered this directory."""
    try:
        return not os.stat(directory).st_mode & _NOT_BEGUN
    except FileNotFoundError:
        return False


def _enter(directory: str, workspace: str, mode: int | None) -> bool:
    """Begin in a directory, and make it if it was not made (`mode` None). True if no execution was there before."""
    if mode is not None:
        with contextlib.suppress(FileNotFoundError):
            os.chmod(directory, mode)
            return True
    if make_directory(directory, workspace):
        return True
    now = os.stat(directory).st_mode
    if now & _NOT_BEGUN:
        os.chmod(directory, stat.S_IMODE(now) & ~_NOT_BEGUN)
    return False


async def _put_stream(spool: Spool, target: str, claim: Claim, *, had: bool, is_lost: bool, is_shared: bool) -> None:
    """Put a stream's text where its sample has it; texts of two executions that overlap never mix."""
    if not is_lost and os.path.exists(target) != had:
        # Another execution of this sample has ended since this one began: the one that is the older by losses was lost.
        if claim.losses:
            move_aside(target, claim.number)
            had = False
        else:
            target, had = f"{target}.lost-{claim.number}", False
    elif is_lost:
        target, had = f"{target}.lost-{claim.number}", False
    if had:
        await spool.append_to(target, is_shared=is_shared)
    else:
        spool.give(target)


def _scratch(workspace: str, worker: str) -> Path:
    return Path(workspace, JOURNAL_DIR, "scratch", worker)
