"""The files of a sample: what is made before it runs, and what is kept of it. Three ways; the plan says which.

    full     script, .out, .err and marker in a directory of its own (SPEC-LANGUAGE §3)
    lean     a directory of its own, with .out and .err if there is something in them
    packed   nothing of its own: output goes to one file for each worker

A way is asked in this order: `prepare` → `enter` → the sample runs → `keep` if it ended → `release`, always; or
`prepare` → `drop`. A sample is prepared while the one before it runs, so what tells that it began waits for `enter`: a
worker may die in between. Slots and executions do not know which way it is. File operations are synchronous on purpose:
they are small and local to the step, and a thread for each would cost more than it hides.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

import msgspec

from mrun.engine.plan.render import NodeText
from mrun.engine.records import LEFT_RESUMING, MAY_HAVE_STARTED, RESUMES, Claim
from mrun.engine.work.outcomes import Exit
from mrun.engine.work.processes import Running, Stream
from mrun.engine.work.studies import WorkedStudy
from mrun.engine.workspace.descriptors import write_all

MARKER = "MERLIN_FINISHED"
_SCRIPT_MODE = 0o755
_OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
_OPEN_MARKER = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC


class Instance(msgspec.Struct, frozen=True):
    """A sample that is to be run, of a claim."""

    study: WorkedStudy
    text: NodeText
    claim: Claim
    sample: int

    @property
    def may_have_started(self) -> bool:
        """Whether a worker that was lost had this sample in hand, and may have begun with it."""
        return self.claim.resume in (MAY_HAVE_STARTED, LEFT_RESUMING)

    @property
    def resumes(self) -> bool:
        """Whether it resumes, whatever its files tell."""
        return self.claim.resume in (RESUMES, LEFT_RESUMING)

    def script(self, *, is_restart: bool = False) -> bytes:
        """The text of its script, or of its restart script."""
        study = self.study
        values: Sequence[str] = ()
        if study.samples is not None and self.text.step.uses_samples:
            values = study.samples.values(self.sample)
        return self.text.script_text(self.sample, values, is_restart=is_restart).encode("utf-8", "surrogateescape")


class Ready(msgspec.Struct, frozen=True):
    """What to start, and where."""

    instance: Instance
    #: Its working directory.
    directory: str
    #: The path under which the interpreter finds the script.
    script: str
    #: The interpreter's words, if the script can't be started by itself.
    interpreter: tuple[str, ...]
    out: Stream
    err: Stream
    #: An execution began before, and did not end by itself.
    is_resumed: bool
    #: What the sample leaves running in its process group is ended with it.
    ends_group: bool


class Ended(msgspec.Struct, frozen=True):
    """How it ended, as far as files care."""

    end: Exit
    #: It ended by itself with code 0, in time.
    is_finished: bool
    #: The sample belongs to another worker by now.
    is_lost: bool
    #: What ran it, which knows whether others of its process group live on and may still write. Asking is a call.
    process: Running


class Files(Protocol):
    """One way of keeping files. One object for each worker.

    `prepare`, `enter` and `keep` raise OSError if the workspace, or the place for scratch files, can't be written; what
    they made is taken back, or can be made again.
    """

    def prepare(self, instance: Instance) -> Ready:
        """Make what the sample needs to start and nobody can tell. Another sample of its slot may still run."""
        ...

    def enter(self, ready: Ready) -> None:
        """It starts now: make its directory, and what is in there, and what says that an execution began."""
        ...

    def drop(self, ready: Ready) -> None:
        """It was prepared, and does not start. Raises nothing."""
        ...

    async def keep(self, ready: Ready, ended: Ended) -> None:
        """Keep what it left. Not called if nobody knows how it ended."""
        ...

    def release(self, ready: Ready) -> None:
        """The sample does not run any more, or never did; once for each that was entered. Raises nothing."""
        ...

    def never_ran(self, ready: Ready) -> None:
        """It was entered and could not be started: nothing may say that it was. Before `release`; raises nothing."""
        ...

    def close(self) -> None:
        """No sample will come any more."""
        ...


class FullReady(Ready, frozen=True):
    """With the texts of its scripts, by path."""

    scripts: tuple[tuple[str, bytes], ...]


class FullFiles:
    """Everything that Merlin's users know: scripts, .out, .err and the marker, in the sample's directory."""

    def prepare(self, instance: Instance) -> FullReady:
        """The scripts' texts. An output that is there says that an execution began."""
        text = instance.text
        directory = text.sample_directory(instance.sample)
        out, err = f"{directory}/{text.instance_name}.out", f"{directory}/{text.instance_name}.err"
        is_resumed = instance.resumes or (instance.may_have_started and os.path.exists(out))
        script = f"{directory}/{text.script_name()}"
        scripts = [(script, instance.script())]
        if text.step.restart is not None:
            restart = f"{directory}/{text.script_name(is_restart=True)}"
            scripts.append((restart, instance.script(is_restart=True)))
            script = restart if is_resumed else script
        return FullReady(
            *(instance, directory, script, (), out, err, is_resumed), ends_group=False, scripts=tuple(scripts)
        )

    def enter(self, ready: Ready) -> None:
        """Directory and scripts. An execution that was lost and may still write keeps its own .out and .err."""
        assert isinstance(ready, FullReady)
        instance = ready.instance
        is_again = not make_directory(ready.directory, instance.study.plan.workspace)
        if is_again:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{ready.directory}/{MARKER}")
            if instance.may_have_started:
                move_aside(str(ready.out), instance.claim.number)
                move_aside(str(ready.err), instance.claim.number)
        for path, text in ready.scripts:
            write_script(path, text, is_again=is_again)

    def drop(self, ready: Ready) -> None:
        """Nothing is held."""

    async def keep(self, ready: Ready, ended: Ended) -> None:
        """Leave the empty file that users' own scripts look for."""
        if ended.is_finished:
            marker = f"{ready.directory}/{MARKER}"
            workspace = ready.instance.study.plan.workspace
            await keep_within(ready.directory, workspace, partial(_leave_marker, marker))

    def release(self, ready: Ready) -> None:
        """Nothing is held."""

    def never_ran(self, ready: Ready) -> None:
        """Without .out nothing says that it did."""

    def close(self) -> None:
        """Nothing is held."""


def make_directory(path: str, workspace: str) -> bool:
    """Make it and what is above it, but not the workspace: that was made when the study was queued. True if it is new.

    Raises:
        FileNotFoundError: the workspace is gone. To make it anew would hide that all that was in it is lost.
    """
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    except FileNotFoundError:
        if not os.path.isdir(workspace):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), workspace) from None
        os.makedirs(path, exist_ok=True)
    return True


async def keep_within(directory: str, workspace: str, keep: Callable[[], Awaitable[None]]) -> None:
    """Keep something in a sample's directory, whatever its script did to that: removed it, or made it read-only.

    It has run, and would do the same again: to hand it back, as when a disk is full, would run it for ever.

    Raises:
        OSError: it can't be kept, and that is not the script's doing.
    """
    try:
        await keep()
    except FileNotFoundError:
        make_directory(directory, workspace)
        await keep()
    except PermissionError:
        mode = stat.S_IMODE(os.stat(directory).st_mode)
        os.chmod(directory, mode | stat.S_IRWXU)
        try:
            await keep()
        finally:
            os.chmod(directory, mode)


async def _leave_marker(path: str) -> None:
    os.close(os.open(path, _OPEN_MARKER, 0o666))


def move_aside(path: str, claim: int) -> None:
    """Give the output of an execution that was lost another name; the writer follows its file."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, f"{path}.lost-{claim}")


def write_script(path: str, text: bytes, *, is_again: bool) -> None:
    """Write a script that can be run. `is_again`: there may be one."""
    # A shell reads its script as it goes: an execution that we believe dead may be in the middle of the old file.
    target = f"{path}.new" if is_again else path
    fd = os.open(target, _OPEN_NEW, _SCRIPT_MODE)
    try:
        write_all(fd, text)
    finally:
        os.close(fd)
    if is_again:
        os.rename(target, path)
