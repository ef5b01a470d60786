"""One execution of one sample: files → environment → process → exit → what is kept of it.

What can be done before a sample's turn is done while the one before it runs: `prepare`, and then `start`, or `drop`.
Everything up to the script's first instruction that fails is not the sample's fault: it raises `StartError`, and the
sample goes back unharmed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import msgspec

from mrun.engine.errors import LauncherError, MrunError, WorkspaceError
from mrun.engine.plan.render import NodeText
from mrun.engine.records import Claim
from mrun.engine.work.affinity import NO_GRANT, Grant, pinned
from mrun.engine.work.files import Ended, Files, FullFiles, Instance, Ready
from mrun.engine.work.jobs import Jobs
from mrun.engine.work.launched import LaunchedProcess
from mrun.engine.work.lean import LeanFiles
from mrun.engine.work.outcomes import Exit
from mrun.engine.work.packed import PackedFiles
from mrun.engine.work.processes import Running, Spawner, Watcher
from mrun.engine.work.studies import WorkedStudy
from mrun.engine.work.warm import WarmOrder, WarmProcess, WarmScript, WarmShells, is_bash, needs_whole_shell
from mrun.launchers.base import Launcher
from mrun.launchers.find import launcher_named

#: What may go wrong before a script's first instruction. ValueError: a NUL in a name. LookupError: a node or a row that
#: the plan does not have, by a task that somebody forged.
_NO_START = (OSError, WorkspaceError, LauncherError, ValueError, LookupError)


class StartError(MrunError):
    """A sample could not be started, or what it left could not be kept, through no fault of its own."""

    is_retryable = True


class Prepared(msgspec.Struct, frozen=True):
    """A sample that can be started, and of which nothing tells yet."""

    ready: Ready
    files: Files
    environment: Mapping[bytes, bytes]
    #: What a warm shell is to read; None: it is started cold.
    order: WarmOrder | None
    #: The CPUs and GPUs that it may use.
    grant: Grant


class Execution(msgspec.Struct, frozen=True):
    """A sample that was started."""

    process: Running
    ready: Ready
    files: Files

    async def keep(self, end: Exit, *, is_finished: bool, is_lost: bool) -> None:
        """Keep what it left, after its end.

        Args:
            is_finished: it ended by itself with code 0, in time.
            is_lost: the sample belongs to another worker by now.

        Raises:
            StartError: it can't be kept: the workspace is full or gone.
        """
        try:
            await self.files.keep(self.ready, Ended(end, is_finished, is_lost, self.process))
        except OSError as error:
            name = error.filename or self.ready.directory
            raise StartError(f"'{name}' can't be written: {error.strerror}.") from error

    def take_back(self) -> bool:
        """It was started behind another: it is not to start. False: it runs, or will at any moment."""
        assert isinstance(self.process, WarmProcess)
        if not self.process.take_back():
            return False
        self.files.never_ran(self.ready)
        self.files.release(self.ready)
        return True

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
        #: Samples that are batch jobs.
        self.jobs = Jobs(environment)
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

    def prepare(self, study: WorkedStudy, claim: Claim, sample: int, grant: Grant = NO_GRANT) -> Prepared:
        """Prepare a sample of a claim, for the CPUs and GPUs that this was granted. It is to be started or dropped.

        Raises:
            StartError: it can't be started.
        """
        try:
            return self._prepare(Instance(study, study.text(claim.node), claim, sample), grant)
        except _NO_START as error:
            raise _start_error(error, study, claim, sample) from error

    def start(self, prepared: Prepared) -> Execution:
        """Start a sample.

        Raises:
            StartError: anything failed before the script's first instruction.
        """
        return self._entered(prepared, lambda: self._begin(prepared))

    def start_behind(self, first: Execution, prepared: Prepared) -> Execution | None:
        """Let a sample start by itself when another ends, if what runs that can do so.

        Returns:
            None if it can't: then nothing has changed.

        Raises:
            StartError, WarmShellError: what it needs could not be made. It is to be prepared anew.
        """
        order, process = prepared.order, first.process
        if order is None or not isinstance(process, WarmProcess) or not process.may_be_followed_by(order):
            return None
        return self._entered(prepared, lambda: process.follow(order))

    def drop(self, prepared: Prepared) -> None:
        """It is not to be started."""
        prepared.files.drop(prepared.ready)

    def close(self) -> None:
        """Nothing runs any more, and nothing will."""
        for files in self._files.values():
            files.close()
        self._warm.close()
        self._spawner.close()

    def _prepare(self, instance: Instance, grant: Grant) -> Prepared:
        text = instance.text
        files = self.jobs.files if text.terms.job else self._files[text.step.files]
        # What another launcher starts, it places.
        grant = NO_GRANT if text.terms.started_by else grant
        ready = files.prepare(instance)
        try:
            environment = self._sample_environment(ready)
            environment.update(grant.variables)
            order = None
            # Another launcher starts the script by words of its own.
            if text.step.is_warm and self._launcher_for(text.terms.started_by).name == "local":
                script = WarmScript(
                    *(text.shell, ready.script, ready.directory, environment, ready.out, ready.err),
                    ends_group=ready.ends_group, is_whole=self._is_whole and is_bash(text.shell),
                    cpus=grant.cpus if grant.is_pinned else (),
                )  # fmt: skip
                order = self._warm.order(script)
        except BaseException:
            files.drop(ready)
            raise
        return Prepared(ready, files, environment, order, grant)

    def _entered(self, prepared: Prepared, begin: Callable[[], Running]) -> Execution:
        """Make its files ready, and begin it; if that fails, there is nothing that says so."""
        files, ready = prepared.files, prepared.ready
        try:
            try:
                files.enter(ready)
                process = begin()
            except BaseException:
                files.never_ran(ready)
                files.release(ready)
                raise
        except _NO_START as error:
            instance = ready.instance
            raise _start_error(error, instance.study, instance.claim, instance.sample) from error
        return Execution(process, ready, files)

    def _begin(self, prepared: Prepared) -> Running:
        ready, environment = prepared.ready, prepared.environment
        text = ready.instance.text
        if text.terms.job:
            return self.jobs.start(ready, {os.fsdecode(name): os.fsdecode(environment[name]) for name in environment})
        if prepared.order is not None and (warm := self._warm.start(prepared.order)) is not None:
            return warm
        launcher = self._launcher_for(text.terms.started_by)
        command = (*ready.interpreter, *launcher.command(ready.script, text.terms.needs))
        streams = (ready.out, ready.err)
        with pinned(prepared.grant):
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


def _start_error(error: Exception, study: WorkedStudy, claim: Claim, sample: int) -> StartError:
    """What failed, for the user."""
    what = f"Sample {sample} could not be started"
    if isinstance(error, MrunError):
        return StartError(error.message, hint=error.hint)
    if isinstance(error, FileNotFoundError):
        # The kernel names the script also when it is the script's shell that is missing.
        shell = study.text(claim.node).shell
        if _is_there(error.filename) or error.filename == shell.split()[0]:
            return StartError(f"{what}: its shell '{shell}' does not exist on this machine.")
        return StartError(f"{what}: there is no '{error.filename}'.")
    if isinstance(error, OSError):
        return StartError(f"{what}: {error.strerror}" + (f" '{error.filename}'." if error.filename else "."))
    return StartError(f"Sample {sample} of node {claim.node} could not be started: {error}.")


def _is_there(path: str | None) -> bool:
    return path is not None and os.path.exists(path)
