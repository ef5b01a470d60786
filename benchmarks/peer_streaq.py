"""The streaQ worker that peers.py runs: the same script, and nothing at all, as tasks.

`python -m benchmarks.peer_streaq work` is its worker; `… queue` reads lines of a task's name and how many, queues
them, and answers.
"""

from __future__ import annotations

import os
import sys
import time

import anyio
from streaq import Worker

from benchmarks.marks import value_of

#: Tasks of a worker at once: as many as cores for scripts; for no-ops, what serves an asyncio queue best.
worker = Worker(redis_url=f"unix://{os.environ['BENCHMARK_SOCKET']}", concurrency=int(os.environ["BENCHMARK_SLOTS"]))


# Results are not kept: nobody reads them.
@worker.task(ttl=0)
async def run_script(number: int) -> None:
    """One sample."""
    await anyio.run_process(["bash", os.environ["BENCHMARK_SCRIPT"], str(number)], stdout=None, stderr=None)


@worker.task(ttl=0)
async def do_nothing(number: int) -> None:
    """One no-op; a few write a mark."""
    if number:
        with open(os.environ["BENCHMARK_MARKS"], "a") as file:
            file.write(f"{time.time()}\n")


async def queue() -> None:
    """Queue until stdin ends."""
    async with worker:
        for line in sys.stdin:
            name, count = line.split()
            task = {"run_script": run_script, "do_nothing": do_nothing}[name]
            await worker.enqueue_many([task.enqueue(value_of(number)) for number in range(int(count))])
            print("queued", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "work":
        worker.run_sync()
    else:
        anyio.run(queue)
