"""A place to run the installed `mrun` in: directories of its own, a server and workers that may be killed.

What the steps themselves wrote is the independent account: `ledger` counts lines in a directory that no part of mrun
knows.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from tests.commands import COMMANDS
from tests.conftest import TestServer, wait_until

#: The interpreter's own directory: `mrun` is installed beside it.
BIN = Path(sys.executable).parent


class Lab:
    """Runs `mrun` against one test server."""

    def __init__(self, directory: Path, server: TestServer) -> None:
        self.directory = directory
        self.server = server
        self.ledger_dir = directory / "ledger"
        self.ledger_dir.mkdir()
        self.workers: list[subprocess.Popen[bytes]] = []
        #: By the id of the study.
        self.workspaces: dict[str, str] = {}
        self.environment = dict(os.environ) | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "XDG_CONFIG_HOME": str(directory / "config"),
            "XDG_STATE_HOME": str(directory / "state"),
            "MRUN_BROKER": server.url,
            "LEDGER": str(self.ledger_dir),
        }
        self.environment.pop("XDG_RUNTIME_DIR", None)

    def spec(self, text: str, name: str = "spec.yaml") -> Path:
        """A spec file in the lab."""
        path = self.directory / name
        path.write_text(textwrap.dedent(text))
        return path

    def mrun(self, *words: object, code: int = 0, timeout_s: float = 60) -> str:
        """Run a command to its end; its stdout."""
        texts = [*map(str, words)]
        if COMMANDS.can_run(texts, self.environment):
            ended = COMMANDS.run(texts, self.directory, self.environment, timeout_s)
        else:
            ended = subprocess.run(
                [BIN / "mrun", *texts],
                cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=timeout_s,
                check=False,
            )  # fmt: skip
        assert ended.returncode == code, f"mrun {words}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def json(self, *words: object, **options: Any) -> Any:
        """Run a command with --json; its value."""
        return json.loads(self.mrun("--json", *words, **options))

    def work_behind(self, before: str, *words: object) -> subprocess.Popen[bytes]:
        """Start a command from a shell that does something first, as one of the lab's workers."""
        with self._new_log() as log:
            worker = subprocess.Popen(
                ["bash", "-c", f'{before}; exec "$0" "$@"', BIN / "mrun", *map(str, words)],
                cwd=self.directory, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.workers.append(worker)
        return worker

    def start(self, *words: object) -> subprocess.Popen[str]:
        """Start a command that takes its time, with --json; the caller waits for it."""
        return subprocess.Popen(
            [BIN / "mrun", "--json", *map(str, words)],
            cwd=self.directory, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def queue(self, spec: Path | str, *words: object) -> str:
        """Queue a spec; the study's id."""
        queued = self.json("queue", spec, *words)
        self.workspaces[queued["study"]] = queued["workspace"]
        return str(queued["study"])

    def work(self, *words: object) -> subprocess.Popen[bytes]:
        """Start a worker in the background; its log is in the lab."""
        with self._new_log() as log:
            worker = subprocess.Popen(
                [BIN / "mrun", "work", *map(str, words)],
                cwd=self.directory, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.workers.append(worker)
        return worker

    def _new_log(self) -> BinaryIO:
        return (self.directory / f"worker-{len(self.workers)}.log").open("wb")

    def engine_of(self, worker: subprocess.Popen[bytes]) -> int:
        """The engine's pid below a worker's guard."""
        children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children")
        return int(wait_until(lambda: children.read_text().split(), "the guard has its engine")[0])

    def study(self, study: str) -> dict[str, Any]:
        """A study's status; steps by name under `by_step`."""
        return _by_step(self.json("status", study)[0])

    def wait_for_end(self, study: str, timeout_s: float = 90) -> dict[str, Any]:
        """Wait until the study has ended, with `mrun wait`; its status, and the command's `exit_code`."""
        ended = subprocess.run(
            [BIN / "mrun", "--json", "wait", study, "--timeout", str(timeout_s)],
            cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=timeout_s + 30,
            check=False,
        )  # fmt: skip
        assert ended.returncode in (0, 7), f"{ended.returncode}\n{ended.stdout}\n{ended.stderr}\n{self.logs()}"
        return _by_step(json.loads(ended.stdout)[0]) | {"exit_code": ended.returncode}

    def ledger(self, name: str) -> Counter[str]:
        """How often each line was written by the steps under that name."""
        path = self.ledger_dir / name
        return Counter(path.read_text().split()) if path.exists() else Counter()

    def logs(self) -> str:
        """What the workers logged, the end of it."""
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.directory.glob("worker-*.log")))

    def leftovers(self) -> list[str]:
        """Command lines of processes that still work in the lab, but for its server."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                has_lab = f"LEDGER={self.ledger_dir}".encode() in (entry / "environ").read_bytes().split(b"\0")
                if has_lab and "State:\tZ" not in (entry / "status").read_text():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found

    def stop_workers(self) -> None:
        """Drain the workers that live, then see that nothing is left over."""
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            try:
                worker.wait(timeout=20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait(timeout=20)

    def close(self) -> None:
        """End everything. A process that is left over fails the test."""
        self.stop_workers()
        wait_until(lambda: not self.leftovers(), f"no process is left over, but: {self.leftovers()}", 10)


def _by_step(status: dict[str, Any]) -> dict[str, Any]:
    return status | {"by_step": {step["name"]: step for step in status["steps"]}}


def random_of(request_seed: int | None = None) -> random.Random:
    """A generator whose seed is printed, so that a failure can be replayed with MRUN_TEST_SEED."""
    seed = int(os.environ.get("MRUN_TEST_SEED", request_seed or random.SystemRandom().randrange(2**32)))
    print(f"MRUN_TEST_SEED={seed}")
    return random.Random(seed)
