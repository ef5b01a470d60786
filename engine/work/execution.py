"""One execution of one sample: files → environment → process → exit → what is kept of it.

Everything up to the script's first instruction that fails is not the sample's fault: it raises `StartError`, and the
sample goes back unharmed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from mrun.engine.errors import LauncherError, MrunError, WorkspaceError
from mrun.engine.plan.render import NodeText
from mrun.engine.records import Claim
from mrun.engine.work.files import Ended, Files, FullFiles, Instance, Ready
from mrun.engine.work.launched import LaunchedProcess
from mrun.engine.work.lean import LeanFiles
from mrun.engine.work.outcomes import Exit
from mrun.engine.work.packed import PackedFiles
from mrun.engine.work.processes import Running, Spawner, Watcher
from mrun.engine.work.studies import WorkedStudy
from mrun.engine.work.warm import WarmProcess, WarmScript, WarmShells, is_bash, needs_whole_shell
from mrun.launchers.base import Launcher
from mrun.launchers.find import launcher_named


class StartError(MrunError):
    """A sample could not be started, or what it left could not be kept, through no fault of its own."""

    is_retryable = True


class Execution(msgspec.Struct, frozen=True):
    """A sample that was started."""

    process: Running
    ready: Ready
    files: Files

    def keep(self, end: Exit, *, is_finished: bool, is_lost: bool) -> None:
        """Keep what it left, after its end.

        Args:
            is_finished: it ended by itself with code 0, in time.
            is_lost: the sample belongs to another worker by now.

        Raises:
            StartError: it can't be kept: the workspace is full or gone.
        """
        try:
            self.files.keep(self.ready, Ended(end, is_finished, is_lost, self.process))
        except OSError as error:
            name = error.filename or self.ready.directory
            raise StartError(f"'{name}' can't be written: {error.strerror}.") from error

    def close(self) -> None:
        """Forget it. If it still runs it is killed."""
        process = self.process
        process.close()
        if isinstance(process, WarmProcess) and not process.has_begun:
            self.files.never_ran(self.ready)
        self.files.release(self.ready)


class Executor:
    """Starts samples by one launcher, for one worker."""

    def __init__(self, launcher: Launcher, watcher: Watcher, environment: Mapping[str, str], worker: str) -> None:
        self._launcher = launcher
        #: Those of steps that are started by a scheduler, by batch type.
        self._launchers: dict[str, Launcher] = {}
        self._watcher = watcher
        self._spawner = Spawner(watcher)
        self._environment = {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
        self._warm = WarmShells(self._environment, watcher)
        is_local = launcher.name == "local"
        self._files: dict[str, Files] = {
            "full": FullFiles(),
            "lean": LeanFiles(worker, is_local=is_local),
            "packed": PackedFiles(worker, is_local=is_local),
        }
        #: Of the last node: claims of one node come in a row.
        self._node: NodeText | None = None
        self._node_environment: dict[bytes, bytes] = {}
        self._is_whole = False

    def start(self, study: WorkedStudy, claim: Claim, sample: int) -> Execution:
        """Start a sample of a claim.

        Raises:
            StartError: anything failed before the script's first instruction.
        """
        try:
            return self._start(Instance(study, study.text(claim.node), claim, sample))
        except FileNotFoundError as error:
            # The kernel names the script also when it is the script's shell that is missing.
            what = f"there is no '{error.filename}'"
            shell = study.text(claim.node).shell
            if _is_there(error.filename) or error.filename == shell.split()[0]:
                what = f"its shell '{shell}' does not exist on this machine"
            raise StartError(f"Sample {sample} could not be started: {what}.") from error
        except OSError as error:
            what = f" '{error.filename}'" if error.filename else ""
            raise StartError(f"Sample {sample} could not be started: {error.strerror}{what}.") from error
        except (WorkspaceError, LauncherError) as error:
            raise StartError(error.message, hint=error.hint) from error
        except (ValueError, LookupError) as error:
            # A NUL in a name; a node or a row that the plan does not have, by a task that somebody forged.
            raise StartError(f"Sample {sample} of node {claim.node} could not be started: {error}.") from error

    def close(self) -> None:
        """Nothing runs any more, and nothing will."""
        for files in self._files.values():
            files.close()
        self._warm.close()
        self._spawner.close()

    def _start(self, instance: Instance) -> Execution:
        files = self._files[instance.text.step.files]
        ready = files.prepare(instance)
        try:
            process = self._begin(ready)
        except BaseException:
            files.never_ran(ready)
            files.release(ready)
            raise
        return Execution(process, ready, files)

    def _begin(self, ready: Ready) -> Running:
        text, environment = ready.instance.text, self._sample_environment(ready)
        launcher = self._launcher_for(text.terms.started_by)
        # Another launcher starts the script by words of its own.
        if text.step.is_warm and launcher.name == "local":
            script = WarmScript(
                *(text.shell, ready.script, ready.directory, environment, ready.out, ready.err),
                ends_group=ready.ends_group, is_whole=self._is_whole and is_bash(text.shell),
            )  # fmt: skip
            if (warm := self._warm.start(script)) is not None:
                return warm
        command = (*ready.interpreter, *launcher.command(ready.script, text.terms.needs))
        streams = (ready.out, ready.err)
        process = self._spawner.spawn(command, ready.directory, environment, streams, ends_group=ready.ends_group)
        if not text.terms.started_by:
            return process
        self._watcher.is_client(process.pid)
        return LaunchedProcess(process, launcher, str(ready.err))

    def _launcher_for(self, started_by: str) -> Launcher:
        """The worker's own, or that of a batch type."""
        if not started_by:
            return self._launcher
        if started_by not in self._launchers:
            self._launchers[started_by] = launcher_named(started_by)
        return self._launchers[started_by]

    def _sample_environment(self, ready: Ready) -> dict[bytes, bytes]:
        instance = ready.instance
        claim, text = instance.claim, instance.text
        if text is not self._node:
            self._node = text
            self._is_whole = text.step.is_warm and needs_whole_shell(text.step)
            self._node_environment = self._environment | {
                b"MRUN_STUDY": instance.study.study.encode(),
                b"MRUN_STEP": os.fsencode(text.step.name),
                b"MRUN_WORKSPACE": os.fsencode(instance.study.plan.workspace),
            }
        environment = self._node_environment.copy()
        environment[b"MRUN_SAMPLE_ID"] = b"%d" % instance.sample
        environment[b"MRUN_ATTEMPT"] = b"%d" % claim.attempt
        environment[b"MRUN_CLAIM"] = b"%d" % claim.number
        if ready.is_resumed:
            environment[b"MRUN_RESUME"] = b"1"
        return environment


def _is_there(path: str | None) -> bool:
    return path is not None and os.path.exists(path)
