"""A lab that breaks things: all goes through a proxy, the server's clock may be set, and the account is strict."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from redis.exceptions import RedisError

from mrun.engine.store.library import library
from tests.chaos.proxy import Proxy
from tests.conftest import CHAOS_SEED, IS_CI, TestServer, wait_until
from tests.lab import Lab

#: `a` and `b` go sample by sample, `f` waits for every sample of `b`. Nobody is blamed for what we do to its workers.
CHAIN = """
    description: {{name: chain, description: a chain and a funnel}}
    study:
        - name: a
          description: writes what it ran
          run: {{cmd: "echo $(MERLIN_SAMPLE_ID) >> $LEDGER/a; sleep {sleep_s}", task_queue: sim, max_losses: 0, {more}}}
        - name: b
          description: goes sample by sample
          run: {{cmd: "echo $(MERLIN_SAMPLE_ID) >> $LEDGER/b", depends: [a], task_queue: sim, max_losses: 0}}
        - name: f
          description: a funnel
          run: {{cmd: "echo funnel $(b.workspace) >> $LEDGER/f", depends: [b_*], task_queue: train, max_losses: 0}}
    merlin:
        samples: {{file: samples.npy, column_labels: [X]}}
"""
QUEUES = ("--queues", "sim,train")


class Arena:
    """A lab, the proxy that all of mrun talks through, and the server's clock."""

    def __init__(self, directory: Path, server: TestServer, clock: Path | None = None) -> None:
        self.lab = Lab(directory, server)
        self.server = server
        self.proxy = Proxy(server.directory / "p", server.socket)
        self.lab.environment["MRUN_BROKER"] = self.proxy.url
        self._clock = clock
        self.lease_s, self._slots = 30.0, 2
        self._timers: list[threading.Timer] = []

    @property
    def has_clock(self) -> bool:
        """Whether the server's clock can be set."""
        return self._clock is not None

    def __enter__(self) -> Arena:
        # The first call of a function that the server does not know changes nothing: its answer is lost in vain.
        self.ask("FUNCTION", "LOAD", "REPLACE", library().text)
        self.proxy.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.end()
        finally:
            self.proxy.__exit__(kind, error, trace)

    # ------------------------------------------------------------------------------------------------ what is run

    def queue_chain(self, samples: int, sleep_s: float = 0.02, more: str = "retry_delay: 0", *words: object) -> str:
        """Queue the chain, `more` being options of its first step; the study's id."""
        np.save(self.lab.directory / "samples.npy", np.arange(float(samples)))
        return self.lab.queue(self.lab.spec(CHAIN.format(sleep_s=sleep_s, more=more)), *words)

    def work(self, lease_s: float, slots: int = 2, *words: object) -> subprocess.Popen[bytes]:
        """Start a worker for the chain's queues."""
        self.lease_s, self._slots = lease_s, slots
        return self.lab.work(*QUEUES, "--lease", lease_s, "--slots", slots, *words)

    def work_again(self) -> subprocess.Popen[bytes]:
        """Start one like the last."""
        return self.work(self.lease_s, self._slots)

    def work_surely(self) -> None:
        """Start one like the last that works: who begins in the moment of a fault may find no server, and end."""
        while True:
            worker = self.work_again()
            log = self.lab.directory / f"worker-{self.lab.workers.index(worker)}.log"
            has_begun = partial(_has_begun_or_ended, worker, log)
            wait_until(has_begun, "a worker begins, or ends")
            if worker.poll() is None:
                return

    def alive(self) -> list[subprocess.Popen[bytes]]:
        """Workers that have not ended."""
        return [worker for worker in self.lab.workers if worker.poll() is None]

    def ran(self, name: str = "a") -> int:
        """How many executions the steps wrote down."""
        return sum(self.lab.ledger(name).values())

    def pick(self, random: random.Random) -> tuple[subprocess.Popen[bytes], int]:
        """Some worker, and its engine's pid. Who began while the server was away ended with code 5."""

        def find() -> tuple[subprocess.Popen[bytes], int] | None:
            workers = self.alive() or [self.work_again()]
            worker = random.choice(workers)
            with contextlib.suppress(OSError):
                engines = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
                return (worker, int(engines[0])) if engines else None
            return None

        return wait_until(find, "a worker has its engine")

    def hold_at(self, move: str, *, is_done: bool) -> None:
        """Wait until somebody asks for this move; nothing gets through any more, until `let_go`.

        Args:
            is_done: the server has done the move, and its answer is lost; otherwise it never hears of it.
        """
        lost = len(self.proxy.lost)
        self.proxy.becomes_hole = True
        (self.proxy.lose_reply if is_done else self.proxy.lose_request)(function_of(move))
        wait_until(lambda: len(self.proxy.lost) > lost, lambda: f"somebody asks to {move}\n{self.lab.logs()}")

    def let_go(self) -> None:
        """The network is there again; what was begun while it was not is broken off."""
        self.proxy.becomes_hole = self.proxy.is_hole = False
        self.proxy.cut()

    def is_running(self) -> bool:
        """Whether the funnel has not run."""
        return not self.lab.ledger("f")

    def later(self, after_s: float, what: Callable[[], object]) -> None:
        """Do something after a while; at the latest when the arena closes."""

        def do() -> None:
            with contextlib.suppress(ProcessLookupError):
                what()

        timer = threading.Timer(after_s, do)
        self._timers.append(timer)
        timer.start()

    def wait_ran(self, count: int, name: str = "a", timeout_s: float = 60, *, is_kept_up: bool = False) -> None:
        """Wait for executions that the steps wrote down; with `is_kept_up` there is always a worker."""

        def has_run() -> bool:
            if is_kept_up and not self.alive():
                self.work_surely()
            return self.ran(name) >= count

        wait_until(has_run, lambda: f"{count} runs of {name}\n{self.lab.logs()}", timeout_s)

    def end(self) -> None:
        """Drain all workers; no process may be left, and no key outside the namespace."""
        self.proxy.becomes_hole, self.proxy.is_hole, self.proxy.delay_s = False, False, 0.0
        for timer in self._timers:
            timer.join()
        if self.server.process is None:
            self.server.start()
        else:
            self.server.process.send_signal(signal.SIGCONT)
        self.lab.close()
        keys: list[Any] = self.server.client().keys("*")
        assert [key for key in keys if not key.startswith(b"{mrun}:")] == []

    # --------------------------------------------------------------------------------------------- the account

    def assert_whole(self, study: str, samples: int, *, is_once: bool, timeout_s: float = 90) -> None:
        """The study ends, every sample ran and is counted once, and so is the funnel.

        Args:
            is_once: nothing that was done excuses a second execution.
        """
        status = self.lab.wait_for_end(study, timeout_s)
        assert status["state"] == "finished", f"{status}\n{self.lab.logs()}"
        counts = {name: status["by_step"][name]["finished"] for name in "abf"}
        assert counts == {"a": samples, "b": samples, "f": 1}, f"{status}\n{self.lab.logs()}"
        assert status["exit_code"] == 0
        everyone = {str(sample) for sample in range(samples)}
        for name in "ab":
            ledger = self.lab.ledger(name)
            assert set(ledger) == everyone, f"{name}: {everyone ^ set(ledger)}\n{self.lab.logs()}"
            twice = {sample: count for sample, count in ledger.items() if count > 1}
            assert not (is_once and twice), f"{name}: {twice}\n{self.lab.logs()}"
        funnels = self.lab.ledger("f")["funnel"]
        assert funnels == 1 if is_once else funnels >= 1, f"{funnels} funnels\n{self.lab.logs()}"
        self._assert_nothing_pending(study)

    def _assert_nothing_pending(self, study: str) -> None:
        """Of a study that has ended, nothing is left but its counters."""
        left = [key.decode() for key in self.server.client().keys(f"{{mrun}}:*{study}*")]
        assert set(left) <= {f"{{mrun}}:2:study:{study}", f"{{mrun}}:2:study:{study}:reasons"}, left

    # ------------------------------------------------------------------------------------------------- the server

    def restart_server(self, how: int = signal.SIGTERM, away_s: float = 0.0) -> None:
        """End the server, and start it again on its data."""
        self.server.stop(how)
        time.sleep(away_s)  # the outage itself
        self.server.start()

    def freeze_server(self, for_s: float) -> None:
        """Stop the server as a machine that swaps does: connections stand, nothing is answered."""
        assert self.server.process is not None
        self.server.process.send_signal(signal.SIGSTOP)
        time.sleep(for_s)  # the outage itself
        self.server.process.send_signal(signal.SIGCONT)

    def ask(self, *words: object) -> Any:
        """Say something to the server, past the proxy, as an administrator would."""
        client = self.server.client()
        try:
            return client.execute_command(*words)
        finally:
            client.close()

    def step_clock(self, by_s: int) -> None:
        """Set the server's clock, from the true time. Not in a pause, for that ends by the clock."""
        assert self._clock is not None
        self.ask("PUBLISH", "pause", "is over")  # what writes, or could, is answered when no pause is on
        self._clock.write_text(f"{by_s:+d}\n")
        wait_until(lambda: abs(self.ask("TIME")[0] - time.time() - by_s) < 5, "the server sees its new time")

    @staticmethod
    def wind(server: TestServer) -> Path:
        """Give a server that is not yet started a clock that can be set; the clock."""
        clock = server.directory / "clock"
        clock.write_text("+0\n")
        server.environment = fake_time() | {"FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
        return clock


def _has_begun_or_ended(worker: subprocess.Popen[bytes], log: Path) -> bool:
    return worker.poll() is not None or "worker_started" in log.read_text()


def function_of(move: str) -> str:
    """How requests name a move."""
    return library().function(move)


def fake_time() -> dict[str, str]:
    """Variables by which a process gets another clock; skips where libfaketime is not installed, and fails in CI."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        if IS_CI:
            pytest.fail("no libfaketime on this machine (apt-get install faketime), and CI must have it")
        pytest.skip("no libfaketime on this machine (apt-get install faketime)")
    return {"LD_PRELOAD": str(found[0]), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def chaos_random() -> random.Random:
    """A generator whose seed is printed, and is the same in all tests of a run; MRUN_CHAOS_SEED replays it."""
    print(f"{CHAOS_SEED}={os.environ[CHAOS_SEED]}")
    return random.Random(int(os.environ[CHAOS_SEED]))


def is_up(arena: Arena) -> bool:
    """Whether the server answers now."""
    try:
        return bool(arena.ask("PING"))
    except RedisError:
        return False
