"""What do a thousand idle workers cost the server?

Each has what an idle `mrun work` has: on one connection a look for work, which is a sign of life, and the worker's own
`Heartbeat`, which beats when looks stay out; on another one a blocked read of bells, whose time-out is the next look.
Four processes share them. `commands` tells where the time goes. Takes about a minute. Does not show: what they cost
their own hosts; a network.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import anyio

from benchmarks.figures import Size, main_of
from benchmarks.stage import Stage, stage
from mrun.engine.records import ClaimRequest, WorkerFacts
from mrun.engine.resources import Inventory
from mrun.engine.store.bells import Bells
from mrun.engine.store.schema import Keys
from mrun.engine.store.seal import Seal
from mrun.engine.store.store import Store
from mrun.engine.work.heartbeat import Heartbeat
from mrun.engine.work.state import WorkerOptions, WorkerState
from mrun.engine.work.studies import Studies
from mrun.engine.work.worker import look_every_s

NAMESPACE, QUEUE, SLOTS, PROCESSES = "mrun", "idle", 32, 4
#: Workers begin within so many seconds, so that their beats are spread as those of real workers are.
SPREAD_S = 4.0
#: Before it is measured, every worker's first reads have timed out.
SETTLE_S = 6.0


async def _idle_worker(on: Stage, name: str) -> None:
    """An idle `mrun work` without its guard and its signals. Ends by cancellation."""
    await anyio.sleep(random.uniform(0, SPREAD_S))
    store = Store(await on.connect(), NAMESPACE, patience_s=60)
    bells = Bells(await on.connect(is_blocking=True), NAMESPACE, (QUEUE,), name)
    facts = WorkerFacts("benchmark", 1, (QUEUE,), SLOTS)
    studies = Studies(store, Seal(bytes(32)), name, "benchmark")
    options = WorkerOptions((QUEUE,), Inventory(SLOTS, SLOTS))
    state = WorkerState(name, facts, options)
    heartbeat = Heartbeat(state, store, studies)
    await heartbeat.beat()
    async with anyio.create_task_group() as duties:
        duties.start_soon(heartbeat.run)
        while True:
            asked_at = time.monotonic()
            state.note_look(asked_at, await store.claim(name, ClaimRequest(SLOTS, (QUEUE,))))
            await bells.wait(look_every_s(options))


async def _crowd(directory: Path, names: list[str]) -> None:
    on = Stage(directory)
    async with anyio.create_task_group() as crowd:
        for name in names:
            crowd.start_soon(_idle_worker, on, name)


def _run_crowd(directory: Path, names: list[str]) -> None:
    asyncio.run(_crowd(directory, names))


def _load(on: Stage, window_s: float) -> float:
    """CPU of the server over a window, in percent of a core."""
    server_s, began = on.server_seconds(), time.perf_counter()
    time.sleep(window_s)
    return round(100 * (on.server_seconds() - server_s) / (time.perf_counter() - began), 2)


def _commands(on: Stage, window_s: float, most: int = 6) -> dict[str, dict[str, float]]:
    """The server's busiest commands since its statistics were reset. A script's time holds that of what it calls."""
    stats = sorted(on.client.info("commandstats").items(), key=lambda item: -item[1]["usec"])
    return {
        name.removeprefix("cmdstat_"): {
            "calls_per_s": round(one["calls"] / window_s, 1),
            "us_per_call": round(one["usec_per_call"], 1),
            "core_percent": round(one["usec"] / window_s / 1e4, 2),
        }
        for name, one in stats[:most]
    }


def measure(size: Size) -> dict[str, Any]:
    """The server's load with nobody, then with all workers."""
    workers, window_s = {Size.SMALLEST: (8, 3.0), Size.QUICK: (1000, 6.0), Size.FULL: (1000, 30.0)}[size]
    names = [f"idle-{number}" for number in range(workers)]
    context = multiprocessing.get_context("spawn")
    with stage() as on:
        alone = _load(on, min(window_s, 3))
        crowds = [
            context.Process(target=_run_crowd, args=(on.directory, names[first::PROCESSES]))
            for first in range(PROCESSES)
        ]
        for one in crowds:
            one.start()
        try:
            while on.client.zcard(Keys(NAMESPACE).workers) < workers:
                if any(one.exitcode is not None for one in crowds):
                    raise RuntimeError("The simulated workers have failed; see above.")
                time.sleep(0.05)
            time.sleep(0 if size is Size.SMALLEST else SETTLE_S)
            on.client.config_resetstat()
            log_bytes = on.log_bytes()
            load = _load(on, window_s)
            commands, log_bytes = _commands(on, window_s), on.log_bytes() - log_bytes
            connected = int(on.client.info("clients")["connected_clients"])
        finally:
            for one in crowds:
                one.terminate()
                one.join()
    return {
        "question": "idle",
        "workers": workers,
        "connections": connected,
        "window_s": window_s,
        "server_core_percent": load,
        "server_alone_core_percent": alone,
        "log_bytes_per_s": round(log_bytes / window_s),
        "commands": commands,
    }


if __name__ == "__main__":
    main_of(measure, __doc__)
