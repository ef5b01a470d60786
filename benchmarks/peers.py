"""How do Celery and a modern asyncio queue on Redis do with the same work, on the same server, in the same run?

`script`: a bash script of one line for each task, no files, on as many slots as cores: Celery (prefork, late
acknowledgement), streaQ, and mrun with the fewest files that it offers, which still journals every sample. `nothing`:
tasks that do nothing, 32 at once for streaQ; mrun's figure is `tasks_per_s` of dispatch.py, by its client and not by a
worker, so it has no CPU time here.

Each has one worker, started once. A peer's is stopped (SIGSTOP) while its tasks are queued, so that it begins with all
of them; what is measured is the middle of a slice (marks.py), against Celery before and after it, a slice away at most
(turns.py). `times_celery` is of wall time, `cpu_times_celery` of CPU time, the server's included; the `…_spread` of
each has the lowest and the highest of the rounds. Takes about three minutes. Does not show: other settings of the
peers, which may suit them better; long tasks, for which all are alike.

Needs `pip install 'mrun[peers]'`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import dispatch, execute
from benchmarks.figures import Size, main_of
from benchmarks.marks import Slice, Timer, tree_cpu_s
from benchmarks.stage import Stage, stage
from benchmarks.turns import Cost, Round, Rounds, compared, costs, play

PEERS = ("celery", "streaq")
INSTALL = "Celery and streaQ are not installed: `pip install 'mrun[peers]'`."
#: mrun's rows of execute.py that are compared, if this mrun has them.
MRUN_ROWS = ("full", "lean", "packed", "warm_lean")
STREAQ_SLOTS = 32
#: A queue that is not worked off by then never will be.
PATIENCE_S = 120
#: How often somebody looks whether it is: so rarely that it costs the rows nothing.
_LOOK_S = 0.05
#: mrun's client dispatches for so long in each round.
_DISPATCH_S = 0.5
#: Tasks that a peer runs before anything is measured.
WARM_UP = 48


class NotInstalledError(Exception):
    """A peer is missing; the message says what to install."""


class Peer:
    """A worker of somebody else's, and a process that queues tasks for it. Both live until `end`."""

    def __init__(self, on: Stage, name: str, task: str) -> None:
        self._on, self._name, self._task = on, name, task
        self._marks = execute.marks_of(on)
        module = f"benchmarks.peer_{name}"
        on.environment["BENCHMARK_SLOTS"] = str(execute.CORES if task == "run_script" else STREAQ_SLOTS)
        with self._log.open("ab") as log:
            self._queuer = subprocess.Popen(
                [sys.executable, "-m", module, "queue"],
                cwd=on.directory, env=on.environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log,
            )  # fmt: skip
            self._worker = subprocess.Popen(
                [sys.executable, "-m", module, "work", str(execute.CORES)],
                cwd=on.directory, env=on.environment, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def _log(self) -> Path:
        return self._on.directory / f"{self._name}.log"

    def run(self, count: int) -> Slice:
        """So many tasks for a worker that waits."""
        self._marks.clear()
        os.kill(self._worker.pid, signal.SIGSTOP)
        try:
            self._queue(count)
            cpu_s, server_s = tree_cpu_s(self._worker.pid), self._on.server_seconds()
        finally:
            os.kill(self._worker.pid, signal.SIGCONT)
        deadline = time.monotonic() + PATIENCE_S
        while not self._marks.is_complete(count) or self._has_unacknowledged():
            if self._worker.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self._log.read_text()[-2000:])
            time.sleep(_LOOK_S)
        cpu_s, server_s = tree_cpu_s(self._worker.pid) - cpu_s, self._on.server_seconds() - server_s
        return Slice(self._marks.wall_s(count), cpu_s / count, server_s / count)

    def end(self) -> None:
        """Both are gone afterwards."""
        for process in (self._worker, self._queuer):
            process.terminate()
        for process in (self._worker, self._queuer):
            process.wait()
        for pipe in (self._queuer.stdin, self._queuer.stdout):
            assert pipe is not None
            pipe.close()

    def _queue(self, count: int) -> None:
        stdin, stdout = self._queuer.stdin, self._queuer.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{self._task} {count}\n")
        stdin.flush()
        if stdout.readline() != "queued\n":
            raise RuntimeError(self._log.read_text()[-2000:])

    def _has_unacknowledged(self) -> bool:
        """Only Celery's are told so. The last task is marked: of streaQ's, none but its neighbours still run."""
        return bool(self._on.client.llen("peer") or self._on.client.hlen("unacked"))


@contextmanager
def _peer_timers(on: Stage, task: str) -> Iterator[dict[str, Timer]]:
    peers: dict[str, Peer] = {}
    try:
        for name in PEERS:
            peers[name] = Peer(on, name, task)
            # The first tasks come to a worker that is still starting.
            peers[name].run(WARM_UP)
        yield {name: peer.run for name, peer in peers.items()}
    finally:
        for peer in peers.values():
            peer.end()


def _scripts(on: Stage, count: int, plan: Rounds) -> tuple[list[str], list[Round]]:
    rows = [name for name in MRUN_ROWS if not execute.refusal(on, name)]
    with ExitStack() as stack:
        timers = stack.enter_context(_peer_timers(on, "run_script"))
        for name, timer in stack.enter_context(execute.mrun_timers(on, rows)).items():
            timers[f"mrun_{name}"] = timer
        rows = [name for name in timers if name != "celery"]
        order = ["celery"]
        # Two rows between two turns of Celery, which is slow: so there is time for more rounds.
        for at in range(0, len(rows), 2):
            order += [*rows[at : at + 2], "celery"]
        # It has a turn before and one after a row: together it runs as many tasks.
        sizes = {name: count // 2 if name == "celery" else count for name in timers}
        return rows, play(order, timers, sizes, plan)


def _nothings(on: Stage, count: int, plan: Rounds) -> tuple[list[str], list[Round]]:
    row = dispatch.Row(1, 4)
    dispatch.queue_study(on, row)

    def time_mrun(_: int) -> Slice:
        one = asyncio.run(dispatch.mrun_round(on, row, _DISPATCH_S))
        return Slice(one.seconds / one.tasks, 0.0, one.server_s / one.tasks)

    with _peer_timers(on, "do_nothing") as timers:
        order = ["celery", "streaq", "celery", "mrun", "celery"]
        sizes = {"celery": count // 2, "streaq": count, "mrun": 0}
        return ["streaq", "mrun"], play(order, timers | {"mrun": time_mrun}, sizes, plan)


def _figures(count: int, rows: Sequence[str], rounds: Sequence[Round], without_cpu: Sequence[str]) -> dict[str, Any]:
    def times(names: Sequence[str], cost: Cost) -> tuple[dict[str, float], dict[str, Any]]:
        found, spread = compared(rounds, [(name, "celery") for name in names], cost)
        medians = {"celery": 1.0} | {name.removesuffix("/celery"): value for name, value in found.items()}
        return medians, {name.removesuffix("/celery"): value for name, value in spread.items()}

    def middle(name: str, cost: Cost) -> float:
        return statistics.median(costs(rounds, name, cost))

    with_cpu = [name for name in rows if name not in without_cpu]
    wall, wall_spread = times(rows, lambda one: one.wall_s)
    cpu, cpu_spread = times(with_cpu, lambda one: one.all_cpu_s)
    return {
        "tasks": count,
        "rounds": len(rounds),
        "per_s": {name: round(1 / middle(name, lambda one: one.wall_s), 1) for name in ("celery", *rows)},
        "times_celery": wall,
        "times_celery_spread": wall_spread,
        "cpu_ms": {name: round(1000 * middle(name, lambda one: one.cpu_s), 3) for name in ("celery", *with_cpu)},
        "server_cpu_ms": {name: round(1000 * middle(name, lambda one: one.server_s), 4) for name in ("celery", *rows)},
        "cpu_times_celery": cpu,
        "cpu_times_celery_spread": cpu_spread,
    }


def measure(size: Size) -> dict[str, Any]:
    """Both kinds of work, all in turns.

    Raises:
        NotInstalledError: a peer is missing.
    """
    if any(importlib.util.find_spec(name) is None for name in PEERS):
        raise NotInstalledError(INSTALL)
    scripts, nothings, plan = {
        Size.SMALLEST: (80, 160, Rounds(0, 1, 1)),
        Size.QUICK: (240, 960, Rounds(10, 3, 9)),
        Size.FULL: (1600, 4800, Rounds(80, 3, 9)),
    }[size]
    with stage() as on:
        root = str(Path(__file__).absolute().parents[1])
        on.environment |= {
            "BENCHMARK_SOCKET": f"{on.directory}/s",
            "BENCHMARK_SCRIPT": str(execute.script_of(on)),
            "BENCHMARK_MARKS": str(execute.marks_of(on).path),
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        }
        script_rows, script_rounds = _scripts(on, scripts, plan)
        nothing_rows, nothing_rounds = _nothings(on, nothings, plan._replace(seconds=plan.seconds / 2))
    return {
        "question": "peers",
        "script": _figures(scripts, script_rows, script_rounds, ()),
        "nothing": _figures(nothings, nothing_rows, nothing_rounds, ("mrun",)),
    }


if __name__ == "__main__":
    try:
        main_of(measure, __doc__)
    except NotInstalledError as error:
        sys.exit(str(error))
