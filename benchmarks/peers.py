"""How do Celery and a modern asyncio queue on Redis do with the same work, on the same server, in the same run?

`script`: a bash script of one line for each task, no files, on as many slots as cores: Celery (prefork, late
acknowledgement), streaQ, and mrun with the fewest files that it offers, which still journals every sample. `nothing`:
tasks that do nothing, 32 at once for streaQ; mrun's figure is `tasks_per_s` of dispatch.py, by its client and not by a
worker. Rates are without what a run of two tasks takes; all tasks are queued before the worker starts. Takes about two
minutes. Does not show: other settings of the peers, which may suit them better; long tasks, for which all are alike.

Needs `pip install 'mrun[peers]'`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import dispatch, execute
from benchmarks.figures import Size, main_of, median
from benchmarks.stage import Stage, stage

PEERS = ("celery", "streaq")
INSTALL = "Celery and streaQ are not installed: `pip install 'mrun[peers]'`."
#: mrun's rows of execute.py that are compared, if this mrun has them.
MRUN_ROWS = ("full", "lean", "packed", "warm_lean")
STREAQ_SLOTS = 32
#: A queue that is not worked off by then never will be.
PATIENCE_S = 120


class NotInstalledError(Exception):
    """A peer is missing; the message says what to install."""


def _time_celery(on: Stage, task: str, count: int) -> float:
    """Seconds from the worker's start to the last acknowledgement."""
    enqueue = f"from benchmarks import peer_celery as p\nfor i in range({count}): p.{task}.delay(i)"
    on.command(sys.executable, "-c", enqueue)
    words = ["celery", "-A", "benchmarks.peer_celery", "worker", "--pool", "prefork"]
    words += ["-c", str(execute.CORES), "-Q", "peer", "--without-gossip", "--without-mingle", "--loglevel", "ERROR"]
    began = time.perf_counter()
    with (on.directory / "celery.log").open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=on.directory, env=on.environment, stdout=log, stderr=log
        )
    try:
        while on.client.llen("peer") or on.client.hlen("unacked"):
            if time.perf_counter() - began > PATIENCE_S:
                raise RuntimeError((on.directory / "celery.log").read_text()[-2000:])
            time.sleep(0.005)
        return time.perf_counter() - began
    finally:
        worker.terminate()
        worker.wait()


def _time_streaq(on: Stage, task: str, count: int) -> float:
    """Seconds of a worker that ends when its queue is empty."""
    enqueue = (
        "import anyio\nfrom benchmarks import peer_streaq as p\n"
        "async def go():\n  async with p.worker:\n"
        f"    await p.worker.enqueue_many([p.{task}.enqueue(i) for i in range({count})])\n"
        "anyio.run(go)"
    )
    on.environment["BENCHMARK_SLOTS"] = str(execute.CORES if task == "run_script" else STREAQ_SLOTS)
    on.command(sys.executable, "-c", enqueue)
    began = time.perf_counter()
    on.command(sys.executable, "-m", "benchmarks.peer_streaq")
    return time.perf_counter() - began


def _timers(on: Stage, task: str) -> dict[str, Callable[[int], float]]:
    return {
        "celery": lambda count: _time_celery(on, task, count),
        "streaq": lambda count: _time_streaq(on, task, count),
    }


def _script_rates(on: Stage, count: int, rounds: int) -> dict[str, float]:
    timers = _timers(on, "run_script")
    for name in MRUN_ROWS:
        if not execute.refusal(on, name):
            timers[f"mrun_{name}"] = lambda count, name=name: execute.time_mrun(on, name, count)
    found = {name: execute.Runs.none(count) for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            found[name].add(timer)
    return {name: runs.rate for name, runs in found.items()}


def _nothing_rates(on: Stage, count: int, rounds: int) -> dict[str, float]:
    row = dispatch.Row(1, 4)
    dispatch.queue_study(on, row)
    timers = _timers(on, "do_nothing")
    found = {name: execute.Runs.none(count) for name in timers}
    own = []
    for _ in range(rounds):
        for name, timer in timers.items():
            found[name].add(timer)
        one = asyncio.run(dispatch.mrun_round(on, row, 0.5))
        own.append(one.tasks / one.seconds)
    return {**{name: runs.rate for name, runs in found.items()}, "mrun": median(own, 1)}


def _times_celery(rates: dict[str, float]) -> dict[str, float]:
    return {name: round(rate / rates["celery"], 2) for name, rate in rates.items()}


def measure(size: Size) -> dict[str, Any]:
    """Both kinds of work, all in turns.

    Raises:
        NotInstalledError: a peer is missing.
    """
    if any(importlib.util.find_spec(name) is None for name in PEERS):
        raise NotInstalledError(INSTALL)
    scripts, nothings, rounds = {
        Size.SMALLEST: (10, 20, 1),
        Size.QUICK: (500, 1500, 1),
        Size.FULL: (2000, 5000, 5),
    }[size]
    with stage() as on:
        script = on.directory / "peer.sh"
        script.write_text("#!/bin/bash\n\ntrue $1\n")
        root = str(Path(__file__).absolute().parents[1])
        on.environment |= {
            "BENCHMARK_SOCKET": f"{on.directory}/s",
            "BENCHMARK_SCRIPT": str(script),
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        }
        script_rates = _script_rates(on, scripts, rounds)
        nothing_rates = _nothing_rates(on, nothings, rounds)
    return {
        "question": "peers",
        "script": {"tasks": scripts, "per_s": script_rates, "times_celery": _times_celery(script_rates)},
        "nothing": {"tasks": nothings, "per_s": nothing_rates, "times_celery": _times_celery(nothing_rates)},
    }


if __name__ == "__main__":
    try:
        main_of(measure, __doc__)
    except NotInstalledError as error:
        sys.exit(str(error))
