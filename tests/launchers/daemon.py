"""The daemon of a fake scheduler: runs its jobs outside of whoever submits them, whose end they are to survive.

Without it a fake runs a job in a process that it forks, which a worker's guard ends with the worker.
"""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path


class Daemon:
    """Calls a fake again for each job that was submitted to it, with FAKE_SERVE naming the job's directory."""

    def __init__(self, fake_dir: Path) -> None:
        self._dir = fake_dir
        self._stop = threading.Event()
        self._jobs: list[subprocess.Popen[bytes]] = []
        self._thread = threading.Thread(target=self._run)
        (fake_dir / "daemon").touch()
        self._thread.start()

    def stop(self) -> None:
        """Start no more jobs, and wait for those that run."""
        self._stop.set()
        self._thread.join()
        for job in self._jobs:
            job.wait(timeout=30)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            for request in self._dir.glob("*/request"):
                words, environment = json.loads(request.read_text())
                request.rename(request.with_name("taken"))
                self._jobs.append(
                    subprocess.Popen(
                        words,
                        env=environment | {"FAKE_SERVE": str(request.parent)},
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        start_new_session=True,
                    )
                )
