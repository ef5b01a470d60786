"""What do calls for one sample cost the server, and the calls that all make?

`one` claims one sample a call and settles one a call, as workers do whose samples take seconds. Beside it, in turn,
`bare` reads one entry of a stream, and acknowledges and deletes it, in a script each. `calls` counts what the two moves
ask of the server. `paced` is a real study of 600 samples of 20 ms (`chunk: 1`) on a worker of two slots; beside it
`bare`, with as many entries and the same pauses. `look` is an idle worker's look for work, `hold` holds a study that is
not there, and `status` is `Views.studies` of 1,000 studies. Times are microseconds of the server's CPU, medians of the
rounds. Ratios are medians of the rounds' own, because the machine may be busy. Takes about a minute. Does not show:
what the client spends, and the network between two machines.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis.asyncio

from benchmarks.dispatch import FILL
from benchmarks.figures import Size, main_of, median
from benchmarks.stage import Stage, stage
from mrun.engine.records import ClaimRequest, OutcomeRun, Room, Settlement, WorkerFacts
from mrun.engine.store.seal import Seal
from mrun.engine.store.store import Store
from mrun.engine.store.views import Views

#: `paced`: samples, and what each takes.
PACED_SAMPLES, PACED_S, PACED_SLOTS = 600, 0.02, 2
STUDIES = 1000
SPEC = """
description: {{name: calls, description: nothing is run}}
study:
  - name: a
    description: a step
    run: {{cmd: "{cmd} # $(X)", task_queue: {queue}, chunk: 1}}
merlin:
  samples: {{file: samples.npy, column_labels: [X]}}
"""
READ_ONE = "return redis.call('XREADGROUP', 'GROUP', 'g', 'c', 'COUNT', 1, 'STREAMS', KEYS[1], '>')[1][2][1][1]"
END_ONE = "redis.call('XACK', KEYS[1], 'g', ARGV[1]) redis.call('XDEL', KEYS[1], ARGV[1])"


class Bare:
    """Reads an entry, and ends it: two calls of the server."""

    def __init__(self, client: redis.asyncio.Redis, entries: int) -> None:
        self._client, self._entries = client, entries
        self._read, self._end = client.register_script(READ_ONE), client.register_script(END_ONE)

    async def begin(self) -> None:
        """Lay the entries down."""
        await self._client.delete("bare")
        await self._client.eval(FILL, 1, "bare", self._entries)

    async def call(self) -> None:
        """One entry."""
        await self._end(keys=["bare"], args=[await self._read(keys=["bare"])])


class OneByOne:
    """Claims one sample a call, and settles it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        amounts = {"slots": 1, "cpus": 1}
        self._request = ClaimRequest(1, ("one",), room=Room(amounts, amounts, False))

    async def begin(self) -> None:
        """Become known."""
        await self._store.beat("one", 3600, (), 0, facts=WorkerFacts("benchmark", 1, ("one",), 1))

    async def call(self) -> None:
        """One sample. Raises RuntimeError if the server refuses."""
        (claim,) = (await self._store.claim("one", self._request)).claims
        done = Settlement(claim.text, claim.lo, claim.hi, (OutcomeRun(1, "finished"),), 1000.0)
        if (await self._store.settle("one", [done])).answers != ("ok",):
            raise RuntimeError("The server refused a settlement.")


async def _server_us(on: Stage, call: Callable[[], Awaitable[Any]], times: int) -> float:
    """Microseconds of the server's CPU for a call."""
    before = _cpu_ns(on)
    for _ in range(times):
        await call()
    return (_cpu_ns(on) - before) / times / 1000


def _cpu_ns(on: Stage) -> int:
    """CPU time of all threads of the server; `INFO` tells it in steps that are too coarse for short rounds."""
    tasks = Path(f"/proc/{on.client.info('server')['process_id']}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir())


async def _measure(on: Stage, rounds: int, times: int) -> dict[str, Any]:
    client = await on.connect()
    store = Store(client, "mrun")
    one, bare = OneByOne(store), Bare(client, 2 * rounds * times + 100)
    views = Views(store, Seal(bytes(32)))
    looker = WorkerFacts("benchmark", 1, ("nothing",), 1)
    await store.beat("idle", 3600, (), 0, facts=looker)
    await one.begin()
    await bare.begin()
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "one": one.call,
        "bare": bare.call,
        "look": lambda: store.claim("idle", ClaimRequest(1, ("nothing",))),
        "hold": lambda: store.hold("nosuch", is_held=True),
    }
    found: dict[str, list[float]] = {name: [] for name in calls}
    try:
        for call in calls.values():
            await call()
        for _ in range(rounds):
            for name, call in calls.items():
                found[name].append(await _server_us(on, call, times))
        counted = await _counted(on, one)
        began = time.perf_counter()
        status_us = await _server_us(on, views.studies, 3)
        status_ms = (time.perf_counter() - began) / 3 * 1000
    finally:
        await client.aclose()
    return {
        **{f"{name}_us": median(them, 1) for name, them in found.items()},
        "ratio": median([a / b for a, b in zip(found["one"], found["bare"], strict=True)], 2),
        "calls": counted,
        "status": {"studies": len(on.client.zrange(store.keys.studies, 0, -1)), "server_us": round(status_us),
                   "ms": round(status_ms, 1)},
    }  # fmt: skip


async def _counted(on: Stage, one: OneByOne) -> float:
    """What a claim and a settle of one sample ask of the server, together."""
    on.client.config_resetstat()
    for _ in range(100):
        await one.call()
    stats = on.client.info("commandstats")
    own = ("cmdstat_fcall", "cmdstat_info", "cmdstat_config|resetstat")
    return sum(stat["calls"] for name, stat in stats.items() if name not in own) / 100


async def _paced_bare(on: Stage, samples: int) -> float:
    client = await on.connect()
    bare = Bare(client, samples + 1)
    try:
        await bare.begin()
        await bare.call()
        before = _cpu_ns(on)
        for _ in range(samples):
            await bare.call()
            await asyncio.sleep(PACED_S / PACED_SLOTS)
        return (_cpu_ns(on) - before) / samples / 1000
    finally:
        await client.aclose()


def _paced(on: Stage, samples: int, rounds: int) -> dict[str, Any]:
    """A real study, and bare entries with the same pauses, in turn."""
    mrun, bare = [], []
    for number in range(rounds):
        on.samples(samples)
        on.queue(SPEC.format(cmd=f"sleep {PACED_S}", queue=f"paced{number}"))
        before = _cpu_ns(on)
        on.mrun("work", "--queues", f"paced{number}", "--slots", PACED_SLOTS, "--exit-when-done")
        mrun.append((_cpu_ns(on) - before) / samples / 1000)
        bare.append(asyncio.run(_paced_bare(on, samples)))
    ratio = median([a / b for a, b in zip(mrun, bare, strict=True)], 2)
    return {"samples": samples, "mrun_us": median(mrun, 1), "bare_us": median(bare, 1), "ratio": ratio}


def measure(size: Size) -> dict[str, Any]:
    """All rows."""
    rounds, times, paced, studies = {
        Size.SMALLEST: (2, 20, 20, 3),
        Size.QUICK: (15, 150, 200, STUDIES),
        Size.FULL: (25, 300, PACED_SAMPLES, STUDIES),
    }[size]
    with stage() as on:
        on.environment |= {"PATH": os.environ["PATH"]}
        on.samples(100_000_000)
        on.queue(SPEC.format(cmd="true", queue="one"))
        many = on.directory / "many.yaml"
        many.write_text(SPEC.format(cmd="true", queue="many").replace(" # $(X)", "").partition("merlin:")[0])
        for _ in range(studies - 1):
            on.queue_here(many)
        found = asyncio.run(_measure(on, rounds, times))
        found["paced"] = _paced(on, paced, 1 if size is not Size.FULL else 3)
    return {"question": "calls", **found}


if __name__ == "__main__":
    main_of(measure, __doc__)
