"""The guard: a small process that outlives the engine by a moment, and takes every step process with it.

    guard (what the user started; child subreaper)
      └── engine (forked; a process group of its own)
            └── steps (a process group each)

Whatever kills the engine, the guard kills the groups that still live and everything that was re-parented to it, also
grandchildren that called setsid, and ends with the engine's code. If the guard is killed, the engine sees its end of
a pipe close, kills its steps and ends. A parent-death signal alone would not do: it reaches the shell and not what
the shell started. Both killed at the same instant is the documented limit (docs/promises.md).

Which groups live stands in memory that both processes share: the engine writes a number when a group begins and a zero
when it has ended, which costs it no call and wakes nobody; the guard reads it once, when the engine is gone.

A worker that was started on another node has no parent there that could send it signals or be seen to die: it hears
of both on its stdin (`_Ears`).

The engine has a process group of its own, so that a signal to the group of the command (Ctrl-C, killpg) reaches the
guard only, which passes it on once.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence

from mrun.engine.stop_signals import stop_signals
from mrun.engine.work.groups import children_of, signal_group

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
#: The lines on a worker's stdin, from whoever started it. Who says the first one can be heard to die, too.
HELLO, STOP = b"mrun", b"stop"
#: Sent by the kernel when the parent dies, maybe once for each of its threads; passed on once, as SIGTERM.
_PARENT_DIED = signal.SIGUSR1
#: Groups that may be noted at once: more than two for each slot that a worker can have. One that finds no cell is
#: found by the guard all the same, when its leader is re-parented to it.
_GROUPS_MOST = 16384
#: How long the client of a scheduler may take to pass its end on to what it has started.
_CLIENT_GRACE_S = 5.0


class GuardLink:
    """The engine's end: notes for the guard which groups live, and hears whether the guard does."""

    def __init__(self, cells: memoryview, life_fd: int) -> None:
        self._cells = cells
        self._free = list(range(len(cells) - 1, -1, -1))
        self._cell_of: dict[int, int] = {}
        #: Readable when the guard has died.
        self.life_fd = life_fd

    def began(self, group: int) -> None:
        """A process group lives."""
        if self._free and group not in self._cell_of:
            cell = self._cell_of[group] = self._free.pop()
            self._cells[cell] = group

    def is_client(self, group: int) -> None:
        """That group is the client of a scheduler: it is to be asked to end, so that it ends what it has started."""
        if group in self._cell_of:
            self._cells[self._cell_of[group]] = -group

    def ended(self, group: int) -> None:
        """Its leader was reaped: the number may be used again, for somebody else's process."""
        cell = self._cell_of.pop(group, None)
        if cell is not None:
            self._cells[cell] = 0
            self._free.append(cell)


def run_guarded(
    engine: Callable[[GuardLink], int], *, ends_with_parent: bool = False, listens_to_stdin: bool = False
) -> int:
    """Fork; run `engine` in the child; guard it in this process; return its exit code (128 + n for signal n).

    Must be called before threads or an event loop are started.

    Args:
        ends_with_parent: drain when the process that started this one dies (Linux' parent-death signal).
        listens_to_stdin: each STOP on stdin counts as a signal; its end, after a HELLO, as two.
    """
    parent = os.getppid()
    cells = memoryview(mmap.mmap(-1, 8 * _GROUPS_MOST)).cast("q")
    life_read, life_write = os.pipe()
    # Blocked over the fork, so that no signal meets a process that is not yet ready for it.
    forwarded = stop_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, (*forwarded, _PARENT_DIED))
    # Children from before the engine are none of its: the user's own server may be among them.
    spared = frozenset(children_of(os.getpid()))
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(life_write)
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*forwarded, _PARENT_DIED))
        os._exit(_run_engine(engine, GuardLink(cells, life_read)))
    os.close(life_read)
    if ends_with_parent:
        _prctl(_PR_SET_PDEATHSIG, _PARENT_DIED)
        if os.getppid() != parent:
            os.kill(os.getpid(), _PARENT_DIED)
    return _Guard(pid, cells, spared, _Ears() if listens_to_stdin else None).watch(forwarded)


def _run_engine(engine: Callable[[GuardLink], int], link: GuardLink) -> int:
    """Never returns into the caller's frames, which belong to the guard: the child ends here, whatever happens."""
    code = 1
    try:
        code = engine(link)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - the child must not unwind into the guard's frames
        # The process ends by os._exit, which prints nothing by itself.
        sys.excepthook(*sys.exc_info())
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code


class _Ears:
    """Hears on stdin what the process says that had this one started elsewhere."""

    def __init__(self) -> None:
        #: What can be waited for: nothing, when nobody will speak any more.
        self.fds = [0]
        self._unfinished = b""
        self._was_greeted = False

    def listen(self) -> tuple[signal.Signals, ...]:
        """The signals that what came in stands for. Two are not of one kind: the kernel would make one of them."""
        try:
            part = os.read(0, 4096)
        except OSError:
            part = b""
        *lines, self._unfinished = (self._unfinished + part).split(b"\n")
        self._was_greeted |= HELLO in lines
        count = lines.count(STOP)
        if not part:
            # Without a greeting it is a launcher that gives nothing to read, and nobody has died.
            self.fds = []
            count = 2 if self._was_greeted else 0
        return (signal.SIGTERM, signal.SIGINT)[:count]


class _Guard:
    """Waits for the engine, passes signals on, and cleans up after it."""

    def __init__(self, engine_pid: int, cells: memoryview, spared: frozenset[int], ears: _Ears | None) -> None:
        self._engine = engine_pid
        self._spared = spared
        self._cells = cells
        self._ears = ears
        self._is_parent_dead = False

    def watch(self, forwarded: Sequence[signal.Signals]) -> int:
        """Until the engine is gone and everything it left is killed; returns its code."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        os.set_blocking(wake_read, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (*forwarded, _PARENT_DIED, signal.SIGCHLD):
            # A handler of our own, that does nothing: the number arrives by the wake-up pipe.
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*forwarded, _PARENT_DIED))
        status = None
        while status is None:
            # The time-out is for a SIGCHLD that came between fork and set_wakeup_fd.
            ears = self._ears.fds if self._ears else []
            ready, _, _ = select.select([wake_read, *ears], [], [], 1.0)
            for received in _read_all(wake_read):
                self._pass_on(received)
            if self._ears and set(ears) & set(ready):
                for heard in self._ears.listen():
                    self._pass_on(heard)
            status = self._reap()
        self._end_the_rest()
        return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)

    def _pass_on(self, number: int) -> None:
        if number == _PARENT_DIED and not self._is_parent_dead:
            self._is_parent_dead = True
            number = signal.SIGTERM
        if number not in (_PARENT_DIED, signal.SIGCHLD):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._engine, number)

    def _reap(self) -> int | None:
        """Reap whoever has ended; the engine's status if it was among them."""
        engine_status = None
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self._engine:
                    engine_status = status
        return engine_status

    def _end_the_rest(self) -> None:
        """Kill the groups that live, then children until there is none: each death hands us its children."""
        groups = [group for group in self._cells.tolist() if group]
        for group in groups:
            if group > 0:
                signal_group(group, signal.SIGKILL)
        self._end_clients([-group for group in groups if group < 0])
        while ours := [pid for pid in children_of(os.getpid()) if pid not in self._spared]:
            for pid in ours:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            for pid in ours:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)

    def _end_clients(self, clients: list[int]) -> None:
        """TERM, and after a while KILL. What clients have started is elsewhere, and no child of ours."""
        for client in clients:
            signal_group(client, signal.SIGTERM)
        deadline = time.monotonic() + _CLIENT_GRACE_S
        while any(client in children_of(os.getpid()) for client in clients) and time.monotonic() < deadline:
            time.sleep(0.02)
            self._reap()
        for client in clients:
            signal_group(client, signal.SIGKILL)


def _read_all(fd: int) -> bytes:
    """What a non-blocking pipe holds now."""
    data = b""
    with contextlib.suppress(BlockingIOError):
        while part := os.read(fd, 65536):
            data += part
    return data


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
