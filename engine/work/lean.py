"""`files: lean`: a sample has a directory of its own, and in it .out and .err if it wrote to them; nothing else.

What a sample writes goes to a file of its slot, `mrun_info/scratch/<worker>/<slot>.out`, which is renamed into the
sample's directory at its end if it is not empty. A file that stayed empty serves the next sample: so a silent sample
costs one directory. A killed worker leaves behind what its last samples had written.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from pathlib import Path

from mrun.engine.plan.places import JOURNAL_DIR
from mrun.engine.records import RESUMES, Claim
from mrun.engine.work.descriptors import copy, high, size_of
from mrun.engine.work.files import Ended, Instance, Ready, make_directory, move_aside
from mrun.engine.work.scripts import PassedScript, ScriptMemory, ScriptPasser, keep_node_scripts

#: Workspaces whose files for output are kept open; the least recently used go first.
_WORKSPACES_MOST = 16
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

    def append_to(self, target: str, *, is_shared: bool) -> None:
        """Add what was written to a file that is there. `is_shared`: somebody may still write; let him."""
        fd = os.open(target, _APPEND, 0o666)
        try:
            copy(self.fd, fd, size_of(self.fd))
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
    #: Where its streams are kept, and whether there was something of earlier executions.
    targets: tuple[str, str]
    had: tuple[bool, bool]
    is_new: bool


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
        """Directory and script. That a directory is there says that an execution began."""
        text, claim, plan = instance.text, instance.claim, instance.study.plan
        if text is not self._node and text.size > 1:
            make_directory(text.directory, plan.workspace)
            keep_node_scripts(text, plan.samples.columns if plan.samples else ())
            self._node = text
        directory = text.sample_directory(instance.sample)
        is_new = make_directory(directory, plan.workspace)
        targets = (f"{directory}/{text.instance_name}.out", f"{directory}/{text.instance_name}.err")
        is_resumed = claim.resume == RESUMES
        if not is_new and instance.may_have_started:
            is_resumed = True
            for target in targets:
                move_aside(target, claim.number)
        had = (False, False) if is_new else (os.path.exists(targets[0]), os.path.exists(targets[1]))
        seat = self._take(plan.workspace)
        try:
            passed = self._scripts.give(instance, directory, seat.memory, is_resumed=is_resumed)
        except BaseException:
            self._put_back(plan.workspace, seat)
            raise
        seat.is_clean = False
        out, err = seat.spools
        return LeanReady(
            *(instance, directory, passed.path, passed.interpreter, out.fd, err.fd, is_resumed),
            ends_group=False, passed=passed, seat=seat, targets=targets, had=had, is_new=is_new,
        )  # fmt: skip

    def keep(self, ready: Ready, ended: Ended) -> None:
        """Put what it wrote into its directory."""
        assert isinstance(ready, LeanReady)
        claim, is_shared = ready.instance.claim, ended.process.has_left_others
        for spool, target, had in zip(ready.seat.spools, ready.targets, ready.had, strict=True):
            if is_shared or size_of(spool.fd):
                _place(spool, target, claim, had=had, is_lost=ended.is_lost, is_shared=is_shared)
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
        if ready.is_new and ready.instance.text.size > 1:
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


def _place(spool: Spool, target: str, claim: Claim, *, had: bool, is_lost: bool, is_shared: bool) -> None:
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
        spool.append_to(target, is_shared=is_shared)
    else:
        spool.give(target)


def _scratch(workspace: str, worker: str) -> Path:
    return Path(workspace, JOURNAL_DIR, "scratch", worker)
