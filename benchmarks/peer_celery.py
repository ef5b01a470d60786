"""The Celery application that peers.py runs: the same script, and nothing at all, as tasks.

`python -m benchmarks.peer_celery work SLOTS` is its worker; `… queue` reads lines of a task's name and how many, queues
them, and answers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from celery import Celery

from benchmarks.marks import value_of

app = Celery(broker=f"redis+socket://{os.environ['BENCHMARK_SOCKET']}")
# Acknowledged late: a task whose worker dies runs again, which is mrun's promise too. Nobody reads results.
app.conf.update(task_acks_late=True, task_ignore_result=True, task_default_queue="peer")


@app.task
def run_script(number: int) -> None:
    """One sample."""
    subprocess.run(["bash", os.environ["BENCHMARK_SCRIPT"], str(number)], check=True)


@app.task
def do_nothing(number: int) -> None:
    """One no-op; a few write a mark."""
    if number:
        with open(os.environ["BENCHMARK_MARKS"], "a") as file:
            file.write(f"{time.time()}\n")


def main() -> None:
    """Work, or queue until stdin ends."""
    if sys.argv[1] == "work":
        words = ["worker", "--pool", "prefork", "-c", sys.argv[2], "-Q", "peer", "--without-gossip"]
        app.worker_main([*words, "--without-mingle", "--loglevel", "ERROR"])
        return
    for line in sys.stdin:
        task, count = line.split()
        for number in range(int(count)):
            {"run_script": run_script, "do_nothing": do_nothing}[task].delay(value_of(number))
        print("queued", flush=True)


if __name__ == "__main__":
    main()
