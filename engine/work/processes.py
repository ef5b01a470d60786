"""Starting a step's process, waiting for it, ending it. No thread for each process, and no polling.

`os.posix_spawn` between two changes of the engine's own directory is the spawn primitive. glibc starts the child with
CLONE_VFORK, sets its process group, signals and files in C, and execs; it can't set the child's directory, so the
engine enters that just before, and goes back just after: two cheap calls. That is safe because the engine is one
thread, nothing in it uses relative paths, and nothing is awaited in between. Refused: `subprocess.Popen`, which vforks
too, but costs a third more in Python and an extra pipe; `_posixsubprocess.fork_exec`, which measures the same as this
and is private; a `preexec_fn`, which forces a full fork; a shell that changes the directory, which is one more exec.

The end is awaited on a pidfd. All pidfds of a worker are in one epoll, and that is in the event loop once: a process
costs the loop no registration of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import shutil
import signal
import time
from collections.abc import Mapping
from typing import Protocol

from mrun.engine.work.outcomes import Exit
from mrun.engine.workspace.descriptors import high

#: Between TERM and KILL.
GRACE_S = 10.0
#: What Python ignores, and a step must not inherit.
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)
#: How the child opens what it writes.
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_FILE_MODE = 0o666

#: Where a stream goes: a path, that the child opens to append; or a descriptor.
Stream = str | int


class Watcher(Protocol):
    """Is told which process groups live, so that it can end them when the engine can't."""

    def began(self, group: int) -> None:
        """A process group lives."""

    def is_client(self, group: int) -> None:
        """It is the client of a scheduler, which passes its end on if it is asked to end."""

    def ended(self, group: int) -> None:
        """Its leader was reaped."""


class Running(Protocol):
    """What a slot needs of whatever runs a sample."""

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was started."""

    @property
    def has_left_others(self) -> bool:
        """Whether processes of its group live on after it."""

    async def wait_within(self, timeout_s: float) -> Exit | None:
        """Wait for its end, or so long; safe to cancel and to call again."""

    @property
    def has_rest(self) -> bool:
        """Whether processes of its group live on that lived when it ended, after it was asked to end."""

    def signal(self, number: int) -> None:
        """Signal all of it; nothing happens if it is gone."""

    def end_rest(self) -> None:
        """Kill what lives of `has_rest`."""

    def close(self) -> None:
        """Forget it. If it still runs it is killed."""


class StepProcess:
    """A running step: the leader of a process group of its own."""

    def __init__(self, pid: int, began: float, spawner: Spawner, *, ends_group: bool) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self._spawner = spawner
        self._ends_group = ends_group
        #: It was asked to end: what its leader leaves behind has some time to do so, too.
        self._is_asked_to_end = False
        #: Others of its group lived when its leader was reaped. While any of them does, the number is nobody else's.
        self._had_rest = False
        self._began = began
        self._end: Exit | None = None
        self._waiting: asyncio.Future[None] | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._began

    @property
    def has_left_others(self) -> bool:
        """Whether processes of its group live on after it."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    async def wait_within(self, timeout_s: float) -> Exit | None:
        """Wait for its end, or so long; safe to cancel and to call again."""
        if self._end is None:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            await wait_at_most(self._waiting, timeout_s, loop)
        return self._end

    def signal(self, number: int) -> None:
        """Signal the whole group; nothing happens if it is gone, or its leader was reaped: see `end_rest`."""
        if self._end is not None:
            return
        self._is_asked_to_end |= number == signal.SIGTERM
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    @property
    def has_rest(self) -> bool:
        """Whether processes of its group live on that lived when it ended, after it was asked to end."""
        self._had_rest = self._had_rest and self.has_left_others
        return self._had_rest

    def end_rest(self) -> None:
        """Kill what lives of `has_rest`."""
        if self.has_rest:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def signal_leader(self, number: int) -> None:
        """Signal its first process only; nothing happens if that is gone."""
        if self._end is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)

    def close(self) -> None:
        """Forget it. If it still runs it is killed: nothing outlives the one who watches it."""
        if self._end is None:
            self.signal(signal.SIGKILL)
            self.reap()
            self._spawner.forget(self)

    def reap(self) -> None:
        """Take the leader's exit status; waits if it has none yet. Wakes who waits."""
        if self._ends_group and not self._is_asked_to_end:
            # As long as the leader is not reaped, nobody else's group can have its number.
            self.signal(signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        self._had_rest = self._is_asked_to_end and self.has_left_others
        self._end = Exit(os.waitstatus_to_exitcode(status), elapsed_ms=1000 * self.elapsed_s)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Spawner:
    """Starts the processes of one worker, and hears of their ends. Used in one event loop."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._home = high(os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        self._nothing = high(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        self._ends = select.epoll()
        self._processes: dict[int, StepProcess] = {}
        self._default_signals = _signals_to_set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def spawn(
        self,
        command: tuple[str, ...],
        directory: str,
        environment: Mapping[bytes, bytes],
        streams: tuple[Stream, Stream],
        *,
        ends_group: bool = False,
    ) -> StepProcess:
        """Start a command in its own process group, with nothing to read, and its output in `streams`.

        Args:
            command: words; the first is a path, or is looked for on the PATH of `environment`.
            ends_group: what is left of its group is killed when it ends.

        Raises:
            OSError: the kernel could not start it: no such shell, no such directory, too many processes.
        """
        program = command[0] if "/" in command[0] else _find(command[0], environment)
        actions = [
            (os.POSIX_SPAWN_DUP2, self._nothing, 0),
            _redirect(streams[0], 1),
            _redirect(streams[1], 2),
        ]
        # Before: the kernel may let the child come to its end before it lets this process go on.
        began = time.monotonic()
        os.chdir(directory)
        try:
            pid = os.posix_spawn(
                program, command, environment, file_actions=actions, setpgroup=0, setsigdef=self._default_signals
            )
        except OSError:
            # The kernel does not say what failed: if it was one of the files, this tells.
            _try_streams(streams)
            raise
        finally:
            os.fchdir(self._home)
        return self._watch(pid, began, ends_group=ends_group)

    def forget(self, process: StepProcess) -> None:
        """It was reaped: its end is no news any more."""
        del self._processes[process.pidfd]
        self._watcher.ended(process.pid)
        # Closing would not always take it out of the epoll: the kernel lets this process go on a moment before a child
        # that it has just started closes its copy. Then an end would be told under a number that is another's by now.
        self._ends.unregister(process.pidfd)
        os.close(process.pidfd)

    def close(self) -> None:
        """Let go of everything. Nothing may run any more."""
        if self._loop is not None:
            self._loop.remove_reader(self._ends.fileno())
        self._ends.close()
        os.close(self._nothing)
        os.close(self._home)

    def _watch(self, pid: int, began: float, *, ends_group: bool) -> StepProcess:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._ends.fileno(), self._note_ends)
        try:
            process = StepProcess(pid, began, self, ends_group=ends_group)
        except OSError:
            # No descriptor is left for it: it could not be waited for.
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self._processes[process.pidfd] = process
        self._ends.register(process.pidfd, select.EPOLLIN)
        self._watcher.began(pid)
        return process

    def _note_ends(self) -> None:
        for pidfd, _ in self._ends.poll(0):
            process = self._processes[pidfd]
            process.reap()
            self.forget(process)


async def wait_at_most(waiting: asyncio.Future[None], timeout_s: float, loop: asyncio.AbstractEventLoop) -> None:
    """Wait for a future that is nobody else's, or so long.

    A scope of anyio's does the same for any code within; here it would cost as much as all else that a sample's end
    needs of the loop.
    """
    timer = loop.call_later(timeout_s, _let_go, waiting)
    try:
        await waiting
    finally:
        timer.cancel()


def _let_go(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _signals_to_set() -> tuple[int, ...]:
    """All that are not ignored, and those that Python ignores.

    What is not ignored is set anyway: glibc looks at each signal that it is not told of, and the engine waits for it.
    """
    with open("/proc/self/status", "rb") as file:
        ignored = int(next(line for line in file if line.startswith(b"SigIgn")).split()[1], 16)
    fixed = (signal.SIGKILL, signal.SIGSTOP)
    others = (number for number in signal.valid_signals() if number not in fixed and not ignored >> (number - 1) & 1)
    return (*others, *_DEFAULT_SIGNALS)


def _redirect(stream: Stream, number: int) -> tuple[int, int, int] | tuple[int, int, str, int, int]:
    if isinstance(stream, int):
        return (os.POSIX_SPAWN_DUP2, stream, number)
    return (os.POSIX_SPAWN_OPEN, number, stream, _APPEND, _FILE_MODE)


def _try_streams(streams: tuple[Stream, Stream]) -> None:
    """Raises what the child met with when it opened them."""
    for stream in streams:
        if isinstance(stream, str):
            os.close(os.open(stream, _APPEND | os.O_CLOEXEC, _FILE_MODE))


def _find(program: str, environment: Mapping[bytes, bytes]) -> str:
    path = os.fsdecode(environment.get(b"PATH", os.defpath.encode()))
    found = shutil.which(program, path=path)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
    return found
