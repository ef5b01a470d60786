"""Workers of one command: several on this machine, or one on each node of an allocation.

    guard (what the user started)
      └── this (a process group of its own)
            └── a worker of this machine, or srun, flux exec, … with the workers of the nodes

Signals go to all of them; when the last one has ended, so does the command, with the highest of their exit codes. If
this command is killed, they end as if they had been signalled twice: nothing is left over, and nothing is lost.
"""

from __future__ import annotations

import functools
import os
import selectors
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from mrun.engine.errors import ExitCode, LauncherError, MrunError
from mrun.engine.stop_signals import stop_signals
from mrun.engine.work.guard import HELLO, STOP, GuardLink, run_guarded
from mrun.engine.workers.environment import PARENT_VARIABLE, STDIN_VARIABLE
from mrun.launchers.find import launcher_named
from mrun.launchers.schedulers import EndKind, Output
from mrun.launchers.worker_launch import Launched

#: Of what a launcher writes to stderr, so much is kept, in which it says why it failed.
_TAIL_BYTES = 16_384


def fan_out(launches: Sequence[Launched], environment: Mapping[str, str], report: Callable[[MrunError], None]) -> int:
    """Start all, pass signals on, and wait; returns the worst exit code.

    Must be called before threads or an event loop are started.

    Args:
        report: tells the user of an error, in the process that starts them.
    """
    return run_guarded(
        functools.partial(_engine, launches, environment, report), ends_with_parent=PARENT_VARIABLE in environment
    )


def _engine(
    launches: Sequence[Launched], environment: Mapping[str, str], report: Callable[[MrunError], None], link: GuardLink
) -> int:
    try:
        return _FanOut(environment, report, link).run(launches)
    except MrunError as error:
        report(error)
        return int(error.exit_code)


class _Started:
    """A command that was started, and the end of what it wrote to stderr."""

    def __init__(self, launch: Launched, process: subprocess.Popen[bytes]) -> None:
        self.launch = launch
        self.process = process
        self.tail = b""

    def say(self, line: bytes) -> None:
        """To the stdin of all its workers. Who has ended does not hear it."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return

    def stop(self) -> None:
        """As one signal to each of its workers."""
        if self.launch.broadcasts_stdin:
            self.say(STOP)
        elif self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def copy_stderr(self) -> bool:
        """Pass on what came in; False: that was all."""
        assert self.process.stderr is not None
        part = os.read(self.process.stderr.fileno(), 65_536)
        sys.stderr.buffer.write(part)
        sys.stderr.buffer.flush()
        self.tail = (self.tail + part)[-_TAIL_BYTES:]
        return bool(part)


class _FanOut:
    def __init__(self, environment: Mapping[str, str], report: Callable[[MrunError], None], link: GuardLink) -> None:
        self._inherited = {name: value for name, value in environment.items() if name != PARENT_VARIABLE}
        self._report = report
        self._link = link
        self._started: list[_Started] = []
        self._signals = 0
        self._selector = selectors.DefaultSelector()

    def run(self, launches: Sequence[Launched]) -> int:
        """All of them, from their start to their end."""
        self._hear_signals()
        self._selector.register(self._link.life_fd, selectors.EVENT_READ, self._end_without_guard)
        try:
            for launch in launches:
                self._look(0)
                if not self._signals:
                    self._start(launch)
        except LauncherError:
            self._stop()
            self._wait()
            raise
        self._wait()
        return max((self._code(one) for one in self._started), default=int(ExitCode.DONE))

    def _hear_signals(self) -> None:
        asking = stop_signals()
        read, write = os.pipe()
        os.set_blocking(write, False)
        os.set_blocking(read, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (*asking, signal.SIGCHLD):
            # A handler of our own, that does nothing: the number arrives by the pipe.
            signal.signal(number, lambda *_: None)

        def hear() -> None:
            for _ in (number for number in os.read(read, 4096) if number in asking):
                self._stop()

        self._selector.register(read, selectors.EVENT_READ, hear)

    def _start(self, launch: Launched) -> None:
        if not launch.is_here and shutil.which(launch.words[0], path=self._inherited.get("PATH")) is None:
            hint = "Is this the right machine? With --nodes here workers start on this one."
            raise LauncherError(f"Workers are to be started by '{launch.words[0]}', and there is none.", hint=hint)
        own = {PARENT_VARIABLE: str(os.getpid())} if launch.is_here else {STDIN_VARIABLE: "stdin"}
        process = subprocess.Popen(
            launch.words,
            env=self._inherited | own,
            stdin=subprocess.PIPE if launch.broadcasts_stdin else subprocess.DEVNULL,
            stderr=None if launch.is_here else subprocess.PIPE,
            # A session of its own: Ctrl-C comes to the guard only, which passes it on.
            start_new_session=True,
        )
        started = _Started(launch, process)
        self._started.append(started)
        self._link.began(process.pid)
        self._link.is_client(process.pid)
        if launch.broadcasts_stdin:
            started.say(HELLO)
        if process.stderr is not None:
            self._selector.register(process.stderr, selectors.EVENT_READ, functools.partial(self._copy, started))

    def _copy(self, started: _Started) -> None:
        if not started.copy_stderr() and started.process.stderr is not None:
            self._selector.unregister(started.process.stderr)

    def _wait(self) -> None:
        """Until all have ended, and all that they wrote is passed on."""
        while any(one.process.poll() is None for one in self._started):
            # The time-out is for a child that ended before its signal could be heard.
            self._look(1.0)
        while self._look(0):
            pass

    def _look(self, timeout_s: float) -> int:
        ready = self._selector.select(timeout_s)
        for key, _ in ready:
            key.data()
        for one in self._started:
            if one.process.poll() is not None:
                self._link.ended(one.process.pid)
        return len(ready)

    def _stop(self) -> None:
        self._signals += 1
        for one in self._started:
            one.stop()

    def _end_without_guard(self) -> None:
        self._selector.unregister(self._link.life_fd)
        self._stop()
        self._stop()

    def _code(self, one: _Started) -> int:
        """The exit code of a command that has ended; an error is told if the launcher did not start its workers."""
        code = one.process.returncode
        if not one.launch.is_here and code > 0:
            end = launcher_named(one.launch.launcher).end_of(Output(code, err=one.tail.decode(errors="replace")))
            if end.kind is EndKind.REFUSED:
                hint = "Correct what is asked of it, or start workers on this machine with --nodes here."
                error = LauncherError(f"{one.launch.launcher} did not start the workers: {end.why}", hint=hint)
                self._report(error)
                return int(error.exit_code)
        if self._signals and code == -signal.SIGTERM:
            # It had not come so far that it could hear what it was asked.
            return int(ExitCode.DONE)
        return code if code >= 0 else 128 - code
