"""The protocol of the ways in which a study's samples keep their files: `full`, `lean` or `packed`.

A way makes what a sample needs before it starts, and keeps what it left after its end. What tells that an execution
began and did not end must lie on the disk when its process starts, for a worker may die in between. Slots do not know
which way it is. File operations are synchronous on purpose: they are small and local to the step, and a thread for each
would cost more than it hides.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from mrun.engine.atomic_file import replaced_file
from mrun.engine.records import Claim, Resume
from mrun.engine.steps.render import NodeText
from mrun.engine.work.studies import WorkedStudy
from mrun.engine.workspace.descriptors import write_all

_SCRIPT_MODE = 0o755
_OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


class ClaimedSample(msgspec.Struct, frozen=True):
    """A sample of a claim that is to be run."""

    study: WorkedStudy
    text: NodeText
    claim: Claim
    number: int

    @property
    def workspace(self) -> str:
        """The path of its study's workspace."""
        return self.study.plan.workspace

    @property
    def may_have_started(self) -> bool:
        """Whether a worker that was lost owned this sample, and may have begun with it."""
        return self.claim.resume in (Resume.MAY_HAVE_STARTED, Resume.LEFT_RESUMING)

    @property
    def resumes(self) -> bool:
        """Whether it resumes, whatever its files tell."""
        return self.claim.resume in (Resume.RESUMES, Resume.LEFT_RESUMING)

    @property
    def stream_paths(self) -> tuple[str, str]:
        """Where its way keeps what it writes to stdout and stderr, if its directory has them."""
        stem = f"{self.text.sample_directory(self.number)}/{self.text.instance_name}"
        return f"{stem}.out", f"{stem}.err"

    def script(self, *, is_restart: bool = False) -> bytes:
        """The text of its script, or of its restart script."""
        study = self.study
        values: Sequence[str] = ()
        if study.samples is not None and self.text.step.uses_samples:
            values = study.samples.values(self.number)
        return self.text.script_text(self.number, values, is_restart=is_restart).encode("utf-8", "surrogateescape")


class SampleFiles(msgspec.Struct, kw_only=True):
    """What one sample is started with, and how its files are kept. What does not apply to a way does nothing.

    The order of calls is `enter`, `keep` if its end is known, `release`; or `enter`, `never_ran`, `release`; or `drop`.
    """

    sample: ClaimedSample
    #: Its working directory.
    directory: str
    #: The path under which the interpreter finds the script.
    script: str
    #: The interpreter's words, if the script can't be started by itself.
    interpreter: tuple[str, ...] = ()
    #: Where its streams go: a path, or a descriptor.
    out: str | int
    err: str | int
    #: An execution began before, and did not end by itself.
    is_resumed: bool
    #: What the sample leaves running in its process group is ended with it.
    ends_group: bool = False

    def enter(self) -> None:
        """It starts now: make its directory, and what is in there, and what says that an execution began.

        Raises:
            OSError: the workspace can't be written.
        """

    def drop(self) -> None:
        """It was prepared, and does not start. Raises nothing."""

    async def keep(self, code: int, *, is_finished: bool, is_lost: bool, is_shared: bool) -> None:
        """Keep what it left.

        Args:
            code: its exit code; negative: the signal that ended it.
            is_finished: it ended by itself with code 0, in time.
            is_lost: the sample belongs to another worker by now.
            is_shared: others of its process group live on, and may still write.

        Raises:
            OSError: the workspace can't be written.
        """

    def release(self) -> None:
        """The sample does not run any more, or never did; once for each that was entered. Raises nothing."""

    def never_ran(self) -> None:
        """It was entered and could not be started: nothing may say that it was. Before `release`; raises nothing."""


class Way(Protocol):
    """One way of keeping files. One object for each worker."""

    def prepare(self, sample: ClaimedSample) -> SampleFiles:
        """Make what the sample needs to start and nobody can tell. Another sample of its slot may still run.

        Raises:
            OSError: the workspace, or the directory for scratch files, can't be written.
        """

    def close(self) -> None:
        """No sample will come any more."""


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
        _make_below(workspace, os.path.relpath(path, workspace))
    return True


def _make_below(workspace: str, relative: str) -> None:
    """One by one: the workspace itself may go at any moment, and is not to come back by this."""
    path = workspace
    for part in relative.split(os.sep):
        path = os.path.join(path, part)
        try:
            os.mkdir(path)
        except FileExistsError:
            continue
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), workspace) from None


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


def move_aside(path: str, claim: int) -> None:
    """Give the output of an execution that was lost another name; the writer follows its file."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, f"{path}.lost-{claim}")


def write_script(path: str, text: bytes, *, is_again: bool = True) -> None:
    """Write a script that can be run. `is_again`: there may be one.

    Raises:
        OSError: it can't be written.
    """
    if is_again:
        # A shell reads its script as it goes: an execution that we believe dead may be in the middle of the old file.
        with replaced_file(path, _SCRIPT_MODE) as file:
            file.write(text)
        return
    fd = os.open(path, _OPEN_NEW, _SCRIPT_MODE)
    try:
        write_all(fd, text)
    finally:
        os.close(fd)
