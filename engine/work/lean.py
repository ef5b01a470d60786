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

from mrun.engine.plan.places import JOURNAL_DIR
from mrun.engine.records import Claim
from mrun.engine.work.files import Ended, Instance, Ready, keep_within, make_directory, move_aside
from mrun.engine.work.script_memory import ScriptMemory
from mrun.engine.work.scripts import PassedScript, ScriptPasser, keep_node_scripts
from mrun.engine.workspace.descriptors import copy, high, size_of

#: Workspaces whose files for output are kept open; the least recently used go first.
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
        """The file becomes `target`, which is not there; a new one takes its place."""
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


class Seat:
    """What one sample at a time needs, and the next one uses again: files for its streams, memory for its script."""

    def __init__(self, stem: str) -> None:
        out = Spool(f"{stem}.out")
        try:
            self.spools = (out, Spool(f"{stem}.err"))
        except OSError:
            out.remove()
            raise
        self.memory = ScriptMemory()
        #: Nothing is left in it, and there is nobody who may use it.
        self.is_clean = True
        #: Of the sample that was entered: its directory is new; its streams had something of earlier executions.
        self.is_new = False
        self.had = (False, False)
        #: Of the sample that was prepared: its directory was made, and is to have this mode when it starts.
        self.mode: int | None = None

    def clean(self) -> None:
        """Nothing of a sample that was killed, or whose output could not be kept, may reach the next one."""
        for spool in self.spools:
            if size_of(spool.fd):
                os.ftruncate(spool.fd, 0)
        self.memory.let_go()
        self.is_clean = True

    def remove(self) -> None:
        """No sample will come any more."""
        for spool in self.spools:
            spool.remove()
        self.memory.let_go()


class LeanReady(Ready, frozen=True):
    """With what is to be taken back at the end."""

    passed: PassedScript
    seat: Seat
    #: Where its streams are kept.
    targets: tuple[str, str]


class LeanFiles:
    """Directories, and output that is not empty."""

    def __init__(self, worker: str, *, is_local: bool) -> None:
        self._worker = worker
        self._scripts = ScriptPasser(is_local=is_local)
        #: For each workspace, the seats that no sample uses.
        self._free: OrderedDict[str, list[Seat]] = OrderedDict()
        self._made = 0
        self._node: object = None

    def prepare(self, instance: Instance) -> LeanReady:
        """A seat and a script. That a directory is there says that an execution began."""
        text, plan = instance.text, instance.study.plan
        if text is not self._node and text.size > 1:
            make_directory(text.directory, plan.workspace)
            keep_node_scripts(text, plan.samples.columns if plan.samples else ())
            self._node = text
        directory = text.sample_directory(instance.sample)
        targets = (f"{directory}/{text.instance_name}.out", f"{directory}/{text.instance_name}.err")
        is_resumed = instance.resumes or (instance.may_have_started and _has_begun(directory))
        seat = self._take(plan.workspace)
        seat.mode = None if instance.may_have_started or text.size == 1 else _make_ahead(directory)
        try:
            passed = self._scripts.give(instance, directory, seat.memory, is_resumed=is_resumed)
        except BaseException:
            self._put_back(plan.workspace, seat)
            raise
        out, err = seat.spools
        return LeanReady(
            *(instance, directory, passed.path, passed.interpreter, out.fd, err.fd, is_resumed),
            ends_group=False, passed=passed, seat=seat, targets=targets,
        )  # fmt: skip

    def enter(self, ready: Ready) -> None:
        """The directory. What was there of an execution that was lost is moved aside: it may still write."""
        assert isinstance(ready, LeanReady)
        instance, seat, targets = ready.instance, ready.seat, ready.targets
        seat.is_clean, seat.is_new, seat.had = False, False, (False, False)
        seat.is_new = _enter(ready.directory, instance.study.plan.workspace, seat.mode)
        if not seat.is_new:
            if instance.may_have_started:
                for target in targets:
                    move_aside(target, instance.claim.number)
            seat.had = (os.path.exists(targets[0]), os.path.exists(targets[1]))
        ready.passed.put()

    def drop(self, ready: Ready) -> None:
        """The seat is free. Its directory stays, marked: another worker may have entered it, if the claim was lost."""
        assert isinstance(ready, LeanReady)
        self._put_back(ready.instance.study.plan.workspace, ready.seat)

    async def keep(self, ready: Ready, ended: Ended) -> None:
        """Put what it wrote into its directory."""
        assert isinstance(ready, LeanReady)
        claim, is_shared = ready.instance.claim, ended.process.has_left_others
        for spool, target, had in zip(ready.seat.spools, ready.targets, ready.seat.had, strict=True):
            if is_shared or size_of(spool.fd):
                place = partial(_place, spool, target, claim, had=had, is_lost=ended.is_lost, is_shared=is_shared)
                await keep_within(ready.directory, ready.instance.study.plan.workspace, place)
        ready.seat.is_clean = not is_shared

    def release(self, ready: Ready) -> None:
        """The script goes; a directory in which nothing ever ran goes too."""
        assert isinstance(ready, LeanReady)
        ready.passed.remove()
        if not ready.seat.is_clean:
            ready.seat.clean()
        self._put_back(ready.instance.study.plan.workspace, ready.seat)

    def never_ran(self, ready: Ready) -> None:
        """Take back what says that an execution began."""
        assert isinstance(ready, LeanReady)
        if ready.seat.is_new and ready.instance.text.size > 1:
            with contextlib.suppress(OSError):
                os.rmdir(ready.directory)

    def close(self) -> None:
        """Remove the files of the slots."""
        while self._free:
            self._forget_oldest()

    def _take(self, workspace: str) -> Seat:
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
        return Seat(f"{_scratch(workspace, self._worker)}/{self._made}")

    def _put_back(self, workspace: str, seat: Seat) -> None:
        free = self._free.get(workspace)
        if free is not None:
            free.append(seat)
        else:
            seat.remove()

    def _forget_oldest(self) -> None:
        workspace, free = self._free.popitem(last=False)
        for seat in free:
            seat.remove()
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


async def _place(spool: Spool, target: str, claim: Claim, *, had: bool, is_lost: bool, is_shared: bool) -> None:
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
