"""The workers of `mrun run`. It forks the first one early, which imports what it needs while the study is queued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec


class WorkerStart(msgspec.Struct, frozen=True):
    """What a worker is told: the words of its command, its variables, and the file for all that it prints."""

    words: Sequence[str]
    environment: Mapping[str, str]
    log_path: str


class ForkedWorker:
    """A child process that waits until it is told what to do. As `subprocess.Popen`, as far as it goes."""

    def __init__(self, pid: int, orders: int) -> None:
        self._orders, self._has_begun = orders, False
        self.pid = pid
        #: None: it lives.
        self.returncode: int | None = None

    def begin(self, start: WorkerStart) -> None:
        """Tell it what to do. Only once."""
        self._has_begun = True
        with os.fdopen(self._orders, "wb") as orders:
            orders.write(msgspec.json.encode(start))

    def __enter__(self) -> ForkedWorker:
        return self

    def __exit__(self, *_: object) -> None:
        """One that was not told what to do ends."""
        if not self._has_begun:
            os.close(self._orders)
            self.wait()

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that killed it; None: it lives."""
        return self.returncode if self.returncode is not None else self._reap(os.WNOHANG)

    def wait(self) -> int:
        """The same, when it has ended."""
        code = self.returncode if self.returncode is not None else self._reap(0)
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it lives."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _reap(self, options: int) -> int | None:
        pid, status = os.waitpid(self.pid, options)
        self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


def fork_worker(prepare: Callable[[], object], work: Callable[[Sequence[str]], None]) -> ForkedWorker:
    """Fork a worker. It ends by itself if this process ends before it has told the worker what to do.

    Must be called before threads or an event loop are started.

    Args:
        prepare: imports what `work` needs; called in the child, while it waits.
        work: the command; called in the child with its words. It ends with SystemExit.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(read)
        return ForkedWorker(pid, write)
    code = 1
    try:
        os.close(write)
        # A session of its own: Ctrl-C comes to the parent only, which passes it on.
        os.setsid()
        prepare()
        code = _work_as_told(read, work)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001  # nobody above is the child's: what it was is said here, or by nobody
        sys.excepthook(*sys.exc_info())
    finally:
        # The frames above belong to the parent.
        os._exit(code)


def spawn_worker(start: WorkerStart) -> subprocess.Popen[bytes]:
    """Start a worker in a fresh interpreter: for who has an event loop already, and can't fork."""
    with Path(start.log_path).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mrun", *start.words],
            env=start.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _work_as_told(orders: int, work: Callable[[Sequence[str]], None]) -> int:
    with os.fdopen(orders, "rb") as file:
        told = file.read()
    if not told:
        return 128 + signal.SIGTERM  # nobody will say anything any more
    start = msgspec.json.decode(told, type=WorkerStart)
    os.environ.clear()
    os.environ.update(start.environment)
    with Path(start.log_path).open("ab") as log, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    work(start.words)
    return 0
