"""A user's home for black-box tests: the installed `mrun` in a place of its own, with its own embedded server."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import redis

from tests.commands import COMMANDS
from tests.conftest import wait_until

#: A test's command that takes longer hangs.
COMMAND_TIMEOUT_S = 60
#: What schedulers and an outer mrun set: none of it may reach the command under test.
_FOREIGN = ("MRUN_", "SLURM_", "FLUX_", "LSB_", "PBS_", "XDG_", "NO_COLOR", "FORCE_COLOR")

Done = subprocess.CompletedProcess[str]


class Home:
    """Directories, variables, and the commands that are run in them. `work` is the current directory of all of them."""

    def __init__(self) -> None:
        # Not pytest's own directory: the path of a socket must be short.
        self.directory = Path(tempfile.mkdtemp(prefix="mrc", dir="/tmp")).resolve()
        self.work = self.directory / "work"
        self._started: list[subprocess.Popen[str]] = []
        for name in ("config", "state", "run", "work"):
            (self.directory / name).mkdir(mode=0o700)
        own = {
            "XDG_CONFIG_HOME": str(self.directory / "config"),
            "XDG_STATE_HOME": str(self.directory / "state"),
            "XDG_RUNTIME_DIR": str(self.directory / "run"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "200",
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        self.environ = inherited | own

    # ------------------------------------------------------------------------------------------------- files

    def write(self, name: str, text: str) -> Path:
        path = self.work / name
        path.write_text(textwrap.dedent(text))
        return path

    def study_dirs(self, under: str = "studies") -> list[Path]:
        """Workspaces, in the order they were made."""
        folder = self.work / under
        return sorted(folder.iterdir(), key=lambda path: path.stat().st_ctime_ns) if folder.is_dir() else []

    # ------------------------------------------------------------------------------------------------- commands

    def start(self, *words: str, environ: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        """`mrun …`, going on."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            ["mrun", *words], cwd=self.work, env=self.environ | (environ or {}), text=True, **(streams | options)
        )
        self._started.append(process)
        return process

    def run(self, *words: str, environ: dict[str, str] | None = None) -> Done:
        """`mrun …` to its end."""
        whole = self.environ | (environ or {})
        if COMMANDS.can_run(words, whole):
            return COMMANDS.run(words, self.work, whole, COMMAND_TIMEOUT_S)
        return ended(self.start(*words, environ=environ))

    def ok(self, *words: str) -> str:
        """stdout of a command that must end with 0."""
        done = self.run(*words)
        assert done.returncode == 0, f"mrun {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *words: str) -> Any:
        """The one JSON value of a command that must end with 0."""
        return json.loads(self.ok(*words, "--json"))

    def all(self, *commands: str) -> list[Done]:
        """Several commands at once; for those that do not disturb each other."""
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda command: self.run(*command.split()), commands))

    def queue(self, spec: str | Path, *words: str) -> str:
        """Queue a spec; returns the study's id."""
        return self.ok("queue", str(spec), *words, "-q").strip()

    def work_off(self, queues: str, *words: str) -> Done:
        """A worker on these queues, until all is done."""
        return self.run("work", "--queues", queues, "--exit-when-done", *words)

    # ------------------------------------------------------------------------------------------------- the server

    @contextlib.contextmanager
    def server(self) -> Iterator[Any]:
        """A client of this home's server, which runs, and answers in text."""
        socket = next((self.directory / "run" / "mrun").glob("*.sock"))
        client = redis.Redis(unix_socket_path=str(socket), decode_responses=True)
        try:
            yield client
        finally:
            client.close()

    def counts(self, study: str, step: int) -> dict[str, int]:
        """What the server counts of a step: quicker than a command, for waiting."""
        with self.server() as client:
            raw = client.hgetall(f"{{mrun}}:2:study:{study}")
        own = {name.removeprefix(f"{step}:"): value for name, value in raw.items() if name.startswith(f"{step}:")}
        return {name: int(value) for name, value in own.items() if value.isdigit()}

    def worker_names(self) -> list[str]:
        with self.server() as client:
            return client.zrange("{mrun}:2:workers", 0, -1)

    # ------------------------------------------------------------------------------------------------- the end

    def processes(self) -> dict[int, str]:
        """Every process that was started in this home: its directory is in the process' environment."""
        mark = os.fsencode(self.directory)
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes():
                    found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def workers_and_steps(self) -> dict[int, str]:
        """Those of the processes that are not the server."""
        return {
            pid: words for pid, words in self.processes().items() if ".sock" not in words and "-server" not in words
        }

    def close(self) -> Closing:
        """Begin to stop the server. Whatever else still runs should not, and fails the test."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.workers_and_steps(), "no process is left", 5)
        left = self.workers_and_steps()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._started:
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream and not stream.closed:
                    stream.close()
        stopping = Closing(self, self.start("server", "stop"))
        assert left == {}, "processes outlived the test"
        return stopping


class Closing:
    """A home whose server is being stopped, while the next test runs."""

    def __init__(self, home: Home, stop: subprocess.Popen[str]) -> None:
        self._home, self._stop = home, stop

    @property
    def is_done(self) -> bool:
        return self._stop.poll() is not None

    def finish(self) -> None:
        """It must have stopped, and nothing may be left."""
        try:
            done = ended(self._stop)
            assert done.returncode == 0, done.stderr
            wait_until(lambda: not self._home.processes(), "the server has gone", 10)
        finally:
            shutil.rmtree(self._home.directory, ignore_errors=True)


def ended(process: subprocess.Popen[str], timeout_s: float = COMMAND_TIMEOUT_S) -> Done:
    """Wait for a command; one that hangs is killed, and its output shown."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
        raise AssertionError(f"{process.args!r} hangs:\n{out}\n{err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
