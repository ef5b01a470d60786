"""Runs `mrun …` to its end without starting a Python for each: a process that has imported everything forks itself.

Most of what a short command costs is to start the interpreter and to import. A forked command is a process of its own
all the same, with its own directory, variables, streams and exit code, and runs `mrun.cli.main.main` as the installed
script does. What lives longer (workers, `mrun run`, servers) is started as users start it. So is the first call of each
command in each process of pytest, and with MRUN_TEST_EXEC=1 every call.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

from mrun.cli import main
from tests.conftest import wait_until

#: Commands with one of these words start processes that live for longer: they are always started as users start them.
STARTED = {"run", "work", "server"}
#: Variables that count when a program starts, by the beginnings of their names: they can not be set afterwards.
AT_START = ("PYTHON", "LC_", "LANG", "LD_", "FAKETIME")
#: A header is a line of JSON: longer than any environment.
HEADER_BYTES = 1 << 22

Done = subprocess.CompletedProcess[str]


class Commands:
    """The forking process of this process of pytest, started when it is first needed."""

    def __init__(self) -> None:
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._seen: set[tuple[str, bool]] = set()

    def can_run(self, words: Sequence[str], environ: Mapping[str, str]) -> bool:
        """Whether this command may be forked; the first of its kind may not."""
        names = {*environ, *os.environ}
        is_other_start = any(name.startswith(AT_START) and environ.get(name) != os.environ.get(name) for name in names)
        if STARTED.intersection(words) or is_other_start or "MRUN_TEST_EXEC" in os.environ:
            return False
        kind = (next((word for word in words if word in main.COMMANDS), ""), "--json" in words)
        is_first = kind not in self._seen
        self._seen.add(kind)
        return not is_first

    def run(self, words: Sequence[str], cwd: Path, environ: Mapping[str, str], timeout_s: float) -> Done:
        """Run a command to its end.

        Raises:
            subprocess.TimeoutExpired: It did not end; it has been killed.
        """
        header = json.dumps({"words": list(words), "cwd": str(cwd), "environ": dict(environ)}).encode() + b"\n"
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull, "rb") as nothing:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(self._socket()))
                socket.send_fds(connection, [b"\0"], [nothing.fileno(), out.fileno(), err.fileno()])
                connection.sendall(header)
                with connection.makefile("r") as answers:
                    pid = int(answers.readline())
                    connection.settimeout(timeout_s)
                    try:
                        code = int(answers.readline())
                    except TimeoutError:
                        os.kill(pid, signal.SIGKILL)
                        raise subprocess.TimeoutExpired(["mrun", *words], timeout_s) from None
            return subprocess.CompletedProcess(["mrun", *words], code, text_of(out), text_of(err))

    def _socket(self) -> Path:
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="mrun-fork-", dir="/tmp")
            path = Path(self._directory.name) / "s"
            # It ends when the other end of its stdin goes: with this process, however that ends.
            words = [sys.executable, "-m", "tests.commands", str(path)]
            environ = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
            self._server = subprocess.Popen(words, stdin=subprocess.PIPE, env=environ, cwd=Path(__file__).parents[1])
            atexit.register(self._close)
            wait_until(path.exists, "the forking process listens")
        return Path(self._directory.name) / "s"

    def _close(self) -> None:
        if self._server is not None and self._server.stdin is not None and self._directory is not None:
            self._server.stdin.close()
            self._server.wait()
            self._directory.cleanup()


def text_of(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode()


COMMANDS = Commands()


# ----------------------------------------------------------------------------------------------- the forking process


def serve(path: str) -> None:
    """Fork a command for each connection, and tell how it ended, until stdin is closed."""
    for name in main.COMMANDS:
        importlib.import_module(f"mrun.cli.commands.{name}")
    gc.freeze()
    wake_in, wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_out)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen(16)
    os.rename(f"{path}.new", path)
    running: dict[int, socket.socket] = {}
    watched: list[int | socket.socket] = [0, listener, wake_in]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if 0 in ready:
            return
        if listener in ready:
            connection, _ = listener.accept()
            pid = fork(connection)
            running[pid] = connection
            connection.sendall(f"{pid}\n".encode())
        if wake_in in ready:
            os.read(wake_in, 4096)
        tell_ended(running)


def fork(connection: socket.socket) -> int:
    """Start the command that a connection asks for; its pid."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb") as lines:
        asked = json.loads(lines.readline(HEADER_BYTES))
    pid = os.fork()
    if pid == 0:
        become(asked["words"], asked["cwd"], asked["environ"], streams)
    for stream in streams:
        os.close(stream)
    return pid


def become(words: list[str], cwd: str, environ: dict[str, str], streams: list[int]) -> NoReturn:
    """Be that command, in its directory, with its variables and streams, and nothing of the process that forked."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, 256)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environ)
        sys.argv = ["mrun", *words]
        main.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def tell_ended(running: dict[int, socket.socket]) -> None:
    """Reap what has ended, and tell each exit code as `subprocess` does: negative for a signal."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with running.pop(pid) as connection:
            try:
                connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            except OSError:
                continue  # who asked did not wait for it


if __name__ == "__main__":
    serve(sys.argv[1])
