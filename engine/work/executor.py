"""Starts samples: what files a sample has, its environment, and what runs it.

What can be done before a sample's turn is done while the one before it runs: `prepare`, and then `start`. Everything up
to the script's first instruction that fails is not the sample's fault: it raises `HandBackError`, and the sample goes
back unharmed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial

from mrun.engine.errors import HandBackError, LauncherError, MrunError, WorkspaceError
from mrun.engine.records import Claim
from mrun.engine.steps.render import NodeText
from mrun.engine.work.affinity import NO_GRANT, Grant, pinned
from mrun.engine.work.files.full import FullFiles
from mrun.engine.work.files.lean import LeanFiles
from mrun.engine.work.files.packed import PackedFiles
from mrun.engine.work.files.way import ClaimedSample, SampleFiles, Way
from mrun.engine.work.processes.cold import ColdProcess, Spawner
from mrun.engine.work.processes.job import JobFiles, JobSample
from mrun.engine.work.processes.job_watch import Jobs
from mrun.engine.work.processes.launched import LaunchedProcess
from mrun.engine.work.processes.process import Process, Script, Watcher
from mrun.engine.work.processes.warm import WarmShells, is_bash, needs_whole_shell
from mrun.engine.work.run import SampleRun
from mrun.engine.work.studies import WorkedStudy
from mrun.launchers.base import Launcher
from mrun.launchers.find import launcher_named

#: What may go wrong before a script's first instruction. ValueError: a NUL in a name. LookupError: a node or a row that
#: the plan does not have, by a task that somebody forged.
_NO_START = (OSError, WorkspaceError, LauncherError, ValueError, LookupError)


class Executor:
    """Starts samples by one launcher, for one worker."""

    def __init__(self, launcher: Launcher, watcher: Watcher, environment: Mapping[str, str], worker: str) -> None:
        #: By batch type. The worker's own, and those of steps that are started by a scheduler.
        self._launchers = {"": launcher}
        self._watcher = watcher
        self._spawner = Spawner(watcher)
        self._environment = {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
        self._warm = WarmShells(self._environment, watcher)
        #: Samples that are batch jobs.
        self.jobs = Jobs(environment)
        is_local = launcher.name == "local"
        self._job_files = JobFiles()
        self._ways: dict[str, Way] = {
            "full": FullFiles(),
            "lean": LeanFiles(worker, is_local=is_local),
            "packed": PackedFiles(worker, is_local=is_local),
        }
        #: Of the last node: claims of one node come in a row.
        self._node: NodeText | None = None
        self._node_environment: dict[bytes, bytes] = {}
        self._is_whole = False

    def prepare(self, study: WorkedStudy, claim: Claim, number: int, grant: Grant = NO_GRANT) -> SampleRun:
        """Prepare a sample of a claim, for the CPUs and GPUs that this was granted. It is to be started or withdrawn.

        Raises:
            HandBackError: it can't be started.
        """
        try:
            return self._prepare(ClaimedSample(study, study.text(claim.node), claim, number), grant)
        except _NO_START as error:
            raise _start_error(error, study, claim, number) from error

    def start(self, run: SampleRun) -> None:
        """Start a sample.

        Raises:
            HandBackError: anything failed before the script's first instruction.
        """
        _start(run, lambda: self._begin(run))

    def start_behind(self, first: SampleRun, run: SampleRun) -> bool:
        """Let a sample start by itself when another ends, if what runs that can do so.

        Returns:
            Whether it can. If it can't, nothing has changed.

        Raises:
            HandBackError: what it needs could not be made. It is to be prepared anew.
        """
        order, process = run.order, first.process
        if order is None or not process.may_be_followed_by(order):
            return False
        _start(run, lambda: process.follow(order))
        return True

    def close(self) -> None:
        """Nothing runs any more, and nothing will."""
        for way in self._ways.values():
            way.close()
        self._warm.close()
        self._spawner.close()

    def _prepare(self, sample: ClaimedSample, grant: Grant) -> SampleRun:
        text = sample.text
        way = self._job_files if text.terms.job else self._ways[text.step.files]
        # Another launcher chooses the CPUs and GPUs of what it starts.
        grant = NO_GRANT if text.terms.started_by else grant
        files = way.prepare(sample)
        try:
            launcher = self._launcher_for(text.terms.started_by)
            words = () if text.terms.job else launcher.command(files.script, text.terms.needs)
            script = Script(
                *(text.shell, files.script, files.directory, self._sample_environment(files, grant)),
                *(files.out, files.err, files.ends_group),
                is_whole=self._is_whole and is_bash(text.shell),
                cpus=grant.cpus if grant.is_pinned else (),
                command=(*files.interpreter, *words),
            )  # fmt: skip
            # Another launcher starts the script by words of its own.
            order = self._warm.order(script) if text.step.is_warm and launcher.name == "local" else None
        except BaseException:
            files.drop()
            raise
        return SampleRun(files, script, order)

    def _begin(self, run: SampleRun) -> Process:
        files, script, terms = run.files, run.script, run.files.sample.text.terms
        if isinstance(files, JobSample):
            variables = {os.fsdecode(name): os.fsdecode(value) for name, value in script.environment.items()}
            return self.jobs.start(files, variables)
        if run.order is not None and (warm := self._warm.start(run.order)) is not None:
            return warm
        if not terms.started_by:
            with pinned(script.cpus):
                return self._spawner.spawn(script, ColdProcess)
        launcher = self._launcher_for(terms.started_by)
        process = self._spawner.spawn(script, partial(LaunchedProcess, launcher=launcher))
        self._watcher.is_client(process.pid)
        return process

    def _launcher_for(self, started_by: str) -> Launcher:
        """The worker's own, or that of a batch type."""
        if started_by not in self._launchers:
            self._launchers[started_by] = launcher_named(started_by)
        return self._launchers[started_by]

    def _sample_environment(self, files: SampleFiles, grant: Grant) -> dict[bytes, bytes]:
        sample = files.sample
        claim, text = sample.claim, sample.text
        if text is not self._node:
            self._node = text
            self._is_whole = text.step.is_warm and needs_whole_shell(text.step)
            self._node_environment = self._environment | {
                b"MRUN_STUDY": sample.study.study.encode(),
                b"MRUN_STEP": os.fsencode(text.step.name),
                b"MRUN_WORKSPACE": os.fsencode(sample.workspace),
            }
        environment = self._node_environment.copy()
        environment[b"MRUN_SAMPLE_ID"] = b"%d" % sample.number
        environment[b"MRUN_ATTEMPT"] = b"%d" % claim.attempt
        environment[b"MRUN_CLAIM"] = b"%d" % claim.number
        if files.is_resumed:
            environment[b"MRUN_RESUME"] = b"1"
        environment.update(grant.variables)
        return environment


def _start(run: SampleRun, begin: Callable[[], Process]) -> None:
    try:
        run.start(begin)
    except _NO_START as error:
        sample = run.files.sample
        raise _start_error(error, sample.study, sample.claim, sample.number) from error


def _start_error(error: Exception, study: WorkedStudy, claim: Claim, number: int) -> HandBackError:
    """What failed, for the user."""
    what = f"Sample {number} could not be started"
    if isinstance(error, MrunError):
        return HandBackError(error.message, hint=error.hint)
    if isinstance(error, FileNotFoundError):
        # The kernel names the script also when it is the script's shell that is missing.
        shell = study.text(claim.node).shell
        if _is_there(error.filename) or error.filename == shell.split()[0]:
            return HandBackError(f"{what}: its shell '{shell}' does not exist on this machine.")
        return HandBackError(f"{what}: there is no '{error.filename}'.")
    if isinstance(error, OSError):
        return HandBackError(f"{what}: {error.strerror}" + (f" '{error.filename}'." if error.filename else "."))
    return HandBackError(f"Sample {number} of node {claim.node} could not be started: {error}.")


def _is_there(path: str | None) -> bool:
    return path is not None and os.path.exists(path)
