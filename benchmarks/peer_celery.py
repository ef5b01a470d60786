"""The Celery application that peers.py runs: the same script, and nothing at all, as tasks."""

from __future__ import annotations

import os
import subprocess

from celery import Celery

app = Celery(broker=f"redis+socket://{os.environ['BENCHMARK_SOCKET']}")
# Acknowledged late: a task whose worker dies runs again, which is mrun's promise too. Nobody reads results.
app.conf.update(task_acks_late=True, task_ignore_result=True, task_default_queue="peer")


@app.task
def run_script(number: int) -> None:
    """One sample."""
    subprocess.run(["bash", os.environ["BENCHMARK_SCRIPT"], str(number)], check=True)


@app.task
def do_nothing(number: int) -> None:
    """One no-op."""
