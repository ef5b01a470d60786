"""The streaQ worker that peers.py runs: the same script, and nothing at all, as tasks.

`python -m benchmarks.peer_streaq` works off its queue and ends.
"""

from __future__ import annotations

import os

import anyio
from streaq import Worker

#: Tasks of a worker at once: as many as cores for scripts; for no-ops, what serves an asyncio queue best.
worker = Worker(redis_url=f"unix://{os.environ['BENCHMARK_SOCKET']}", concurrency=int(os.environ["BENCHMARK_SLOTS"]))


# Results are not kept: nobody reads them.
@worker.task(ttl=0)
async def run_script(number: int) -> None:
    """One sample."""
    await anyio.run_process(["bash", os.environ["BENCHMARK_SCRIPT"], str(number)], stdout=None, stderr=None)


@worker.task(ttl=0)
async def do_nothing(number: int) -> None:
    """One no-op."""


if __name__ == "__main__":
    worker.burst = True
    worker.run_sync()
