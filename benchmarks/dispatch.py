"""How many no-op tasks a second do claim and settle carry, and what does each cost the server?

Clients in this process claim from a study with `Store.claim` and settle with `Store.settle`, at most 64 claims a
call, as workers do, but run nothing. Rows: each bite (the step's `chunk`) with each number of connections; with
`has_child`, every settlement also releases a child's samples. A round of each row is followed by a round of two
baselines that account nothing: a script that reads 64 entries of a stream, and one that acknowledges and deletes them,
entry by entry (`one_by_one`, as each is a task of its own), or with one command for all 64 (`batched`, the least that a
stream can cost). `ratio` is the server's CPU for a task over that for a baseline's entry, each the median of its
rounds. Takes about two minutes. Does not show: what a worker does besides (see execute.py); clients on other machines;
that the clients share the cores with the server, so that rates are lower bounds where `server_load` is far below 1.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import redis.asyncio
from redis.commands.core import AsyncScript

from benchmarks.figures import Size, main_of, median
from benchmarks.stage import Stage, stage
from mrun.engine.records import ClaimAnswer, ClaimRequest, OutcomeRun, Room, Settlement, WorkerFacts
from mrun.engine.resources import Inventory
from mrun.engine.store.store import Store

#: Claims, or entries, in one call.
CALL_MOST = 64
#: Of the baselines; and so many entries for each second that a round of mrun's takes.
BARE_CONNECTIONS, BARE_ENTRIES_A_SECOND = 4, CALL_MOST * 400
#: What each sample is said to have taken: far from what would make the server shorten a bite.
SAMPLE_MS = 0.1
#: A node for each combination: bites of 10,000 use up a hundred million samples in seconds.
SPEC = """
description: {{name: dispatch, description: nothing is run}}
study:
  - name: a
    description: a step
    run: {{cmd: "true $(X) $(P)", task_queue: q{bite}, chunk: {bite}}}
{child}
global.parameters:
  P: {{values: [{values}], label: "P.%%"}}
merlin:
  samples: {{file: samples.npy, column_labels: [X]}}
"""
CHILD = """
  - name: b
    description: waits for a, sample by sample
    run: {{cmd: "true $(X) $(P)", task_queue: unserved, depends: [a]}}
"""
NODES, SAMPLES = 16, 100_000_000

READ = "redis.call('XREADGROUP', 'GROUP', 'g', 'c', 'COUNT', {count}, 'STREAMS', KEYS[1], '>')"
#: Nothing but read; then nothing but acknowledge and delete. Each entry by itself.
READ_EACH = f"""
local ids = {{}}
for i = 1, tonumber(ARGV[1]) do ids[i] = {READ.format(count=1)}[1][2][1][1] end
return ids
"""
END_EACH = """
for _, id in ipairs(ARGV) do
  redis.call('XACK', KEYS[1], 'g', id)
  redis.call('XDEL', KEYS[1], id)
end
"""
#: The same with one command for all entries of a call.
READ_ALL = f"""
local ids = {{}}
for _, entry in ipairs({READ.format(count="ARGV[1]")}[1][2]) do ids[#ids + 1] = entry[1] end
return ids
"""
END_ALL = """
redis.call('XACK', KEYS[1], 'g', unpack(ARGV))
redis.call('XDEL', KEYS[1], unpack(ARGV))
"""
BARE = {"one_by_one": (READ_EACH, END_EACH), "batched": (READ_ALL, END_ALL)}
#: An entry as mrun's tasks are.
FILL = """
for i = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], '*', 't', '0 ' .. i .. ' ' .. (i + 1) .. ' 0 0 0') end
redis.pcall('XGROUP', 'CREATE', KEYS[1], 'g', '0')
"""


class Round(NamedTuple):
    """What one round cost."""

    tasks: int
    seconds: float
    server_s: float
    log_bytes: int

    @property
    def server_us(self) -> float:
        """Microseconds of the server's CPU for one task."""
        return 1e6 * self.server_s / self.tasks


class Row(NamedTuple):
    """A way to dispatch: its study is on a queue of its own."""

    bite: int
    connections: int
    has_child: bool = False

    @property
    def study_name(self) -> str:
        return f"{self.bite}{'c' if self.has_child else ''}"


class Client:
    """One connection, as a worker that runs nothing."""

    def __init__(self, store: Store, name: str, queue: str) -> None:
        self._store, self._name = store, name
        room = Inventory(CALL_MOST, CALL_MOST).amounts
        self._request = ClaimRequest(CALL_MOST, (queue,), room=Room(room, room, False))
        self._facts = WorkerFacts("benchmark", 1, (queue,), CALL_MOST)

    async def enter(self) -> None:
        """Become known, with a lease that outlasts the benchmark."""
        await self._store.beat(self._name, 3600, (), 0, facts=self._facts)

    async def work(self, deadline: float) -> int:
        """Claim and settle until the deadline; the number of claims."""
        done = 0
        while time.monotonic() < deadline:
            answer = await self._store.claim(self._name, self._request)
            if not answer.claims:
                raise RuntimeError("The study is used up: the figures of this round would mean nothing.")
            settled = await self._store.settle(self._name, _settlements(answer))
            if set(settled.answers) != {"ok"}:
                raise RuntimeError(f"The server refused: {settled.answers[0]}")
            done += len(answer.claims)
        return done

    async def leave(self) -> None:
        """Say good-bye: slots that do not work would make bites smaller."""
        await self._store.leave(self._name)


def _settlements(answer: ClaimAnswer) -> list[Settlement]:
    """What `HeldClaim.settlement` makes of a claim whose samples all ended with 0."""
    return [
        Settlement(one.text, one.lo, one.hi, (OutcomeRun(one.hi - one.lo, "finished"),), SAMPLE_MS * (one.hi - one.lo))
        for one in answer.claims
    ]


def queue_study(on: Stage, row: Row) -> None:
    """A study for rows of this bite, in a namespace of its own."""
    on.samples(SAMPLES)
    values = ", ".join(map(str, range(NODES)))
    child = CHILD.format() if row.has_child else ""
    on.environment["MRUN_NAMESPACE"] = row.study_name
    on.queue(SPEC.format(bite=row.bite, child=child, values=values))
    del on.environment["MRUN_NAMESPACE"]


async def _timed(on: Stage, work: Callable[[], Awaitable[int]]) -> Round:
    server_s, log_bytes, began = on.server_seconds(), on.log_bytes(), time.perf_counter()
    tasks = await work()
    seconds = time.perf_counter() - began
    return Round(tasks, seconds, on.server_seconds() - server_s, on.log_bytes() - log_bytes)


async def mrun_round(on: Stage, row: Row, seconds: float) -> Round:
    """Dispatch for so long; `queue_study` comes before."""
    async with AsyncExitStack() as stack:
        clients = []
        for number in range(row.connections):
            raw = await on.connect()
            stack.push_async_callback(raw.aclose)
            clients.append(Client(Store(raw, row.study_name), f"w{number}", f"q{row.bite}"))
        for one in clients:
            await one.enter()
        deadline = time.monotonic() + seconds
        found = await _timed(on, lambda: _sum(*(one.work(deadline) for one in clients)))
        for one in clients:
            await one.leave()
        return found


async def _sum(*counts: Awaitable[int]) -> int:
    return sum(await asyncio.gather(*counts))


async def _bare_round(on: Stage, scripts: tuple[str, str], entries: int) -> Round:
    key = "bare"
    on.client.delete(key)
    on.client.eval(FILL, 1, key, entries + 1)
    calls = entries // CALL_MOST // BARE_CONNECTIONS

    async def work(raw: redis.asyncio.Redis) -> int:
        read, end = (raw.register_script(script) for script in scripts)
        return sum([await _bare_call(read, end, key, CALL_MOST) for _ in range(calls)])

    async with AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(await on.connect()) for _ in range(BARE_CONNECTIONS)]
        # One entry more, so that sending the scripts is not measured.
        await _bare_call(*(raws[0].register_script(script) for script in scripts), key, 1)
        return await _timed(on, lambda: _sum(*(work(raw) for raw in raws)))


async def _bare_call(read: AsyncScript, end: AsyncScript, key: str, count: int) -> int:
    ids = await read(keys=[key], args=[count])
    await end(keys=[key], args=ids)
    return len(ids)


def _figures(row: Row, rounds: list[Round], bare: dict[str, list[Round]]) -> dict[str, Any]:
    server_us = median([one.server_us for one in rounds], 1)
    tasks_per_s = median([one.tasks / one.seconds for one in rounds], 0)
    return {
        "bite": row.bite,
        "connections": row.connections,
        "has_child": row.has_child,
        "tasks_per_s": tasks_per_s,
        "samples_per_s": tasks_per_s * row.bite,
        "server_us_per_task": server_us,
        "server_load": median([one.server_s / one.seconds for one in rounds], 2),
        "log_bytes_per_task": median([one.log_bytes / one.tasks for one in rounds], 0),
        "ratio": {name: round(server_us / median([one.server_us for one in them]), 2) for name, them in bare.items()},
    }


def _bare_figures(rounds: list[Round]) -> dict[str, float]:
    return {
        "entries_per_s": median([one.tasks / one.seconds for one in rounds], 0),
        "server_us_per_entry": median([one.server_us for one in rounds], 1),
        "log_bytes_per_entry": median([one.log_bytes / one.tasks for one in rounds], 0),
    }


async def _measure(on: Stage, rows: list[Row], rounds: int, seconds: float) -> dict[str, Any]:
    found: dict[Row, list[Round]] = {row: [] for row in rows}
    bare: dict[str, list[Round]] = {name: [] for name in BARE}
    entries = round(BARE_ENTRIES_A_SECOND * seconds)
    for _ in range(rounds):
        for row in rows:
            found[row].append(await mrun_round(on, row, seconds))
            for name, scripts in BARE.items():
                bare[name].append(await _bare_round(on, scripts, entries))
    return {
        "question": "dispatch",
        "rows": [_figures(row, found[row], bare) for row in rows],
        "bare": {name: _bare_figures(them) for name, them in bare.items()},
    }


def measure(size: Size) -> dict[str, Any]:
    """All rows, paired with the baselines."""
    full = [Row(bite, connections) for bite in (1, 16, 100, 1000, 10_000) for connections in (1, 4, 16)]
    rows = {
        Size.SMALLEST: [Row(1, 1), Row(1000, 4)],
        Size.QUICK: [Row(1, 1), Row(1, 4), Row(1, 4, has_child=True), Row(1000, 4), Row(10_000, 16)],
        Size.FULL: [*full, Row(1, 4, has_child=True), Row(1000, 4, has_child=True)],
    }[size]
    rounds, seconds = {Size.SMALLEST: (1, 0.1), Size.QUICK: (3, 0.5), Size.FULL: (5, 0.7)}[size]
    with stage() as on:
        for row in {row.study_name: row for row in rows}.values():
            queue_study(on, row)
        return asyncio.run(_measure(on, rows, rounds, seconds))


if __name__ == "__main__":
    main_of(measure, __doc__)
