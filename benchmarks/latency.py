"""How long does work that can be done wait before it is done?

Each script writes the time of its first instruction, and of its last, from bash's own clock: so a row holds
everything from an event to the script's first instruction, bash's start included, and not only the engine's part.

* `spawn`: a bare `posix_spawn` of the same script by a Python process, in rounds between the others: no engine can be
  quicker. Against its p99 the others' are to be judged.
* `commit`: a study is committed → its first sample starts on an idle worker.
* `queue`: `mrun queue` is typed → the same; most of it is Python's start.
* `child`: a parent's last instruction → its child's first one, on the same worker; so the parent's end, its settlement,
  and the child's claim. `child_elsewhere`: parent and child are on queues of two workers, and the second one idles.

Takes about two minutes. Does not show: a busy worker (then work waits for a slot); a network.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Size, main_of, percentile, spread
from benchmarks.stage import Stage, stage
from mrun.engine.store.seal import load_seal
from mrun.engine.store.store import Staged, Store
from mrun.engine.studies.enqueue import Order, check, enqueue, prepare

QUEUES = ("here", "elsewhere")
#: Steps of a chain: so many hand-overs less one.
CHAIN = 26
STEP = """
  - name: s{number}
    description: a link
    run: {{cmd: "echo $EPOCHREALTIME > t; echo $EPOCHREALTIME >> t", task_queue: {queue}, depends: [{parent}]}}
"""
HEAD = """
description: {name: latency, description: nothing but the time}
study:"""
SCRIPT = "#!/bin/bash\n\necho $EPOCHREALTIME > t; echo $EPOCHREALTIME >> t\n"
#: A script that has not started by then never will.
PATIENCE_S = 30


class TimedStore(Store):
    """Notes when a study is committed."""

    committed_at = 0.0

    async def commit(self, study: str, staged: Staged, facts: Sequence[Any], *, replaces: str = "") -> None:
        self.committed_at = time.time()
        await super().commit(study, staged, facts, replaces=replaces)


def _chain(queues: Sequence[str], length: int) -> str:
    parents = ["", *(f"s{number}" for number in range(length))]
    links = [
        STEP.format(number=number, queue=queues[number % len(queues)], parent=parents[number])
        for number in range(length)
    ]
    return HEAD + "".join(links)


def _times(path: Path) -> tuple[float, float]:
    """First and last instruction of a script, once both are written."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        lines = path.read_text().split() if path.exists() else []
        if len(lines) == 2:
            return float(lines[0]), float(lines[1])
        time.sleep(0.002)
    raise RuntimeError(f"No script has written {path}: see whether the workers live.")


def _spawns(on: Stage, count: int) -> list[float]:
    """Milliseconds from a bare spawn to the script's first instruction."""
    directory = on.directory / "spawns"
    directory.mkdir(exist_ok=True)
    script = directory / "script.sh"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    found = []
    os.chdir(directory)
    for _ in range(count):
        Path("t").unlink(missing_ok=True)
        began = time.time()
        os.waitpid(os.posix_spawn(script, [str(script)], on.environment), 0)
        found.append(1000 * (_times(Path("t"))[0] - began))
        time.sleep(0.01)  # as idle as a worker is
    return found


def _order(on: Stage, queues: Sequence[str], length: int, name: str) -> Order:
    path = on.directory / name
    path.write_text(_chain(queues, length))
    return Order(str(path), output_path=str(on.directory / "studies"))


async def _commits(on: Stage, count: int) -> list[float]:
    store = TimedStore(await on.connect(), "mrun")
    order = _order(on, ("here",), 1, "one.yaml")
    found = []
    for _ in range(count):
        plan = prepare(check(order, on.environment, str(on.directory)))
        await enqueue(store, load_seal(on.directory / "config" / "mrun"), plan, order)
        started = (await asyncio.to_thread(_times, Path(plan.workspace, "s0", "t")))[0]
        found.append(1000 * (started - store.committed_at))
        await asyncio.sleep(0.03)  # the worker goes idle again
    await store.client.aclose()
    return found


def _queues(on: Stage, count: int) -> list[float]:
    order = _order(on, ("here",), 1, "one.yaml")
    found = []
    for _ in range(count):
        studies = on.directory / "typed"
        began = time.time()
        on.mrun("queue", order.spec_path, "-o", studies)
        newest = max(studies.iterdir(), key=lambda path: path.stat().st_ctime_ns)
        found.append(1000 * (_times(newest / "s0" / "t")[0] - began))
    return found


async def _children(on: Stage, queues: Sequence[str]) -> list[float]:
    client = await on.connect()
    order = _order(on, queues, CHAIN, f"chain{len(queues)}.yaml")
    plan = prepare(check(order, on.environment, str(on.directory)))
    await enqueue(Store(client, "mrun"), load_seal(on.directory / "config" / "mrun"), plan, order)
    await client.aclose()
    await asyncio.to_thread(_times, Path(plan.workspace, f"s{CHAIN - 1}", "t"))
    times = [_times(Path(plan.workspace, f"s{number}", "t")) for number in range(CHAIN)]
    return [1000 * (child[0] - parent[1]) for parent, child in itertools.pairwise(times)]


def _rounds(on: Stage, rounds: int, count: int, typed: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in ("spawn", "commit", "child", "child_elsewhere", "queue")}
    for _ in range(rounds):
        found["spawn"] += _spawns(on, count)
        found["commit"] += asyncio.run(_commits(on, count))
        found["spawn"] += _spawns(on, count)
        found["child"] += asyncio.run(_children(on, QUEUES[:1]))
        found["spawn"] += _spawns(on, count)
        found["child_elsewhere"] += asyncio.run(_children(on, QUEUES))
        found["queue"] += _queues(on, typed)
    return found


def measure(size: Size) -> dict[str, Any]:
    """All rows; rounds of each in turn."""
    rounds, count, typed = {Size.SMALLEST: (1, 3, 1), Size.QUICK: (3, 25, 2), Size.FULL: (10, 25, 5)}[size]
    began_in = os.getcwd()
    with stage() as on:
        workers = [on.start("work", "--queues", queue, "--slots", 2) for queue in QUEUES]
        try:
            while on.client.zcard("{mrun}:2:workers") < len(workers):
                if any(worker.poll() is not None for worker in workers):
                    raise RuntimeError((on.directory / "background.log").read_text()[-2000:])
                time.sleep(0.02)
            found = _rounds(on, rounds, count, typed)
        finally:
            os.chdir(began_in)
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait()
    bare = percentile(found["spawn"], 99)
    rows = {name: spread(values) | {"p99_over_spawn_ms": round(percentile(values, 99) - bare, 3)}
            for name, values in found.items()}  # fmt: skip
    return {"question": "latency", "rows": rows}


if __name__ == "__main__":
    main_of(measure, __doc__)
