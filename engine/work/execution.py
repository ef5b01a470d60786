"""One execution of one sample: directory → script → files → process → exit → marker.

Everything up to the script's first instruction that fails is not the sample's fault: it raises `StartError`, and the
sample goes back unharmed. File operations are synchronous on purpose: they are small and local to the step, and a
thread for each would cost more than it hides.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping

import msgspec

from mrun.engine.errors import MrunError, WorkspaceError
from mrun.engine.plan.render import NodeText
from mrun.engine.records import MAY_HAVE_STARTED, RESUMES, Claim
from mrun.engine.work.processes import StepProcess, Watcher, spawn
from mrun.engine.work.studies import WorkedStudy
from mrun.launchers.base import Launcher

MARKER = "MERLIN_FINISHED"
_SCRIPT_MODE = 0o755


class StartError(MrunError):
    """A sample could not be started, through no fault of its own."""

    is_retryable = True


class Execution(msgspec.Struct, frozen=True):
    """A sample that was started."""

    process: StepProcess
    directory: str

    def mark_finished(self) -> None:
        """Leave the empty file that users' own scripts look for.

        Raises:
            StartError: it can't be written: the workspace is full or gone.
        """
        try:
            os.close(os.open(os.path.join(self.directory, MARKER), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
        except OSError as error:
            raise StartError(f"'{MARKER}' can't be written in '{self.directory}': {error.strerror}.") from error


class Executor:
    """Starts samples by one launcher, for one worker."""

    def __init__(self, launcher: Launcher, watcher: Watcher, environment: Mapping[str, str]) -> None:
        self._launcher = launcher
        self._watcher = watcher
        self._environment = dict(environment)

    def start(self, study: WorkedStudy, claim: Claim, sample: int) -> Execution:
        """Start a sample of a claim.

        Raises:
            StartError: anything failed before the script's first instruction.
        """
        try:
            text = study.text(claim.node)
            directory = text.sample_directory(sample)
            is_again = not _make_directory(directory, study.plan.workspace)
            files = _Files(directory, text)
            is_resumed = claim.resume == RESUMES
            if is_again:
                is_resumed = files.prepare_again(claim) or is_resumed
            values = study.samples.values(sample) if study.samples and text.step.uses_samples else ()
            script = files.write_scripts(text, sample, values, is_restart=is_resumed, is_again=is_again)
            environment = self._sample_environment(study, claim, sample, is_resumed)
            with open(files.out, "ab", buffering=0) as out, open(files.err, "ab", buffering=0) as err:
                command = self._launcher.command(script)
                process = spawn(command, directory, environment, (out, err), self._watcher)
        except FileNotFoundError as error:
            # The kernel names the script also when it is the script's shell that is missing.
            what = f"there is no '{error.filename}'"
            if _is_there(error.filename):
                what = f"its shell '{text.shell}' does not exist on this machine"
            raise StartError(f"Sample {sample} could not be started: {what}.") from error
        except OSError as error:
            what = f" '{error.filename}'" if error.filename else ""
            raise StartError(f"Sample {sample} could not be started: {error.strerror}{what}.") from error
        except WorkspaceError as error:
            raise StartError(error.message, hint=error.hint) from error
        except (ValueError, LookupError) as error:
            # A NUL in a name; a node or a row that the plan does not have, by a task that somebody forged.
            raise StartError(f"Sample {sample} of node {claim.node} could not be started: {error}.") from error
        return Execution(process, directory)

    def _sample_environment(self, study: WorkedStudy, claim: Claim, sample: int, is_resumed: bool) -> dict[str, str]:
        text = study.text(claim.node)
        own = {
            "MRUN_STUDY": study.study,
            "MRUN_STEP": text.step.name,
            "MRUN_SAMPLE_ID": str(sample),
            "MRUN_ATTEMPT": str(claim.attempt),
            "MRUN_CLAIM": claim.text,
            "MRUN_WORKSPACE": study.plan.workspace,
        }
        if is_resumed:
            own["MRUN_RESUME"] = "1"
        return self._environment | own


class _Files:
    """The files of an instance in its directory."""

    def __init__(self, directory: str, text: NodeText) -> None:
        stem = os.path.join(directory, text.instance_name)
        self.script = os.path.join(directory, text.script_name())
        self.restart = os.path.join(directory, text.script_name(is_restart=True))
        self.out, self.err = f"{stem}.out", f"{stem}.err"
        self.marker = os.path.join(directory, MARKER)

    def prepare_again(self, claim: Claim) -> bool:
        """Before a sample runs again: no marker; a lost execution, which may still be writing, keeps its own files.

        Returns:
            Whether an execution that did not end by itself had started.
        """
        _unlink(self.marker)
        may_have_started = claim.losses > 0 or claim.resume == MAY_HAVE_STARTED
        if not may_have_started or not os.path.exists(self.out):
            return False
        for path in (self.out, self.err):
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, f"{path}.lost-{claim.number}")
        return True

    def write_scripts(
        self, text: NodeText, sample: int, values: tuple[str, ...], *, is_restart: bool, is_again: bool
    ) -> str:
        """Write the script, and the restart script if the step has one; returns the one to run."""
        _write_script(self.script, text.script_text(sample, values), is_again)
        if text.step.restart is None:
            return self.script
        _write_script(self.restart, text.script_text(sample, values, is_restart=True), is_again)
        return self.restart if is_restart else self.script


def _make_directory(path: str, workspace: str) -> bool:
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


def _write_script(path: str, text: str, is_again: bool) -> None:
    # A shell reads its script as it goes: an execution that we believe dead may be in the middle of the old file.
    target = f"{path}.new" if is_again else path
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _SCRIPT_MODE)
    try:
        data = text.encode("utf-8", "surrogateescape")
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)
    if is_again:
        os.rename(target, path)


def _is_there(path: str | None) -> bool:
    return path is not None and os.path.exists(path)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
