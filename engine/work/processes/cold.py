"""Starting a script, waiting for it, ending it. No thread for each process, and no polling.

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
from collections.abc import Callable, Mapping
from typing import TypeVar

from mrun.engine.work.outcomes import Exit
from mrun.engine.work.processes.process import Process, Script, Stream, Watcher
from mrun.engine.workspace.descriptors import high

#: What Python ignores, and a step must not inherit.
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)
#: How the child opens what it writes.
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_FILE_MODE = 0o666

Cold = TypeVar("Cold", bound="ColdProcess")


class ColdProcess(Process):
    """A script that was started for itself: the leader of a process group of its own."""

    def __init__(self, pid: int, began: float, spawner: Spawner, script: Script) -> None:
        super().__init__(ends_group=script.ends_group)
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self._began = began
        self._spawner = spawner

    def signal(self, number: int) -> None:
        """Signal the whole group; nothing happens if it is gone, or its leader was reaped: see `end_rest`."""
        if self._end is None:
            self._is_asked_to_end |= number == signal.SIGTERM
            self._signal_group(number)

    def signal_leader(self, number: int) -> None:
        """Signal its first process only; nothing happens if that is gone."""
        if self._end is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)

    def close(self) -> None:
        """Forget it. If it still runs it is killed: nothing outlives the one who watches it."""
        if self._end is None:
            self._signal_group(signal.SIGKILL)
            self.reap()
            self._spawner.forget(self)

    def reap(self) -> None:
        """Take the leader's exit status; waits if it has none yet. Wakes who waits."""
        if self._ends_group and not self._is_asked_to_end:
            # As long as the leader is not reaped, nobody else's group can have its number.
            self._signal_group(signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        self._had_rest = self._is_asked_to_end and self.has_left_others
        self._finish(Exit(os.waitstatus_to_exitcode(status), elapsed_ms=1000 * self.elapsed_s))

    def _find_group(self) -> int:
        return self.pid


class Spawner:
    """Starts the processes of one worker, and hears of their ends. Used in one event loop."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._home = high(os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        self._nothing = high(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        self._ends = select.epoll()
        self._processes: dict[int, ColdProcess] = {}
        self._default_signals = _signals_to_set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def spawn(self, script: Script, make: Callable[..., Cold]) -> Cold:
        """Start a script in its own process group, with nothing to read, by its command.

        Args:
            make: the class of what is returned, with what only that knows.

        Raises:
            OSError: the kernel could not start it: no such shell, no such directory, too many processes.
        """
        command, streams = script.command, (script.out, script.err)
        program = command[0] if "/" in command[0] else _find(command[0], script.environment)
        actions = [
            (os.POSIX_SPAWN_DUP2, self._nothing, 0),
            _redirect(script.out, 1),
            _redirect(script.err, 2),
        ]
        # Before: the kernel may let the child come to its end before it lets this process go on.
        began = time.monotonic()
        os.chdir(script.directory)
        try:
            pid = os.posix_spawn(
                program, command, script.environment,
                file_actions=actions, setpgroup=0, setsigdef=self._default_signals,
            )  # fmt: skip
        except OSError:
            # The kernel does not say what failed: if it was one of the files, this tells.
            _try_streams(streams)
            raise
        finally:
            os.fchdir(self._home)
        return self._watch(pid, lambda: make(pid, began, self, script))

    def forget(self, process: ColdProcess) -> None:
        """It was reaped: its end is no news any more."""
        del self._processes[process.pidfd]
        self._watcher.ended(process.pid)
        # Closing would not always take it out of the epoll: the kernel lets this process go on a moment before a child
        # that it has just started closes its copy. Then an end would be reported under another process's number.
        self._ends.unregister(process.pidfd)
        os.close(process.pidfd)

    def close(self) -> None:
        """Let go of everything. Nothing may run any more."""
        if self._loop is not None:
            self._loop.remove_reader(self._ends.fileno())
        self._ends.close()
        os.close(self._nothing)
        os.close(self._home)

    def _watch(self, pid: int, make: Callable[[], Cold]) -> Cold:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._ends.fileno(), self._note_ends)
        try:
            process = make()
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


def _signals_to_set() -> tuple[int, ...]:
    """All that are not ignored, and those that Python ignores.

    What is not ignored is set anyway: glibc makes two calls for each signal that the list leaves out, and the engine
    waits for them.
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
