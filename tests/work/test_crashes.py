"""Workers and servers die; every sample is counted once. The steps keep the independent account."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from tests.conftest import wait_until
from tests.lab import Lab, random_of

CHAIN = """
    description: {{name: chain, description: a chain and a funnel}}
    study:
        - name: a
          description: writes what it ran
          run:
              cmd: |
                  echo $(MERLIN_SAMPLE_ID) >> $LEDGER/a
                  sleep 0.1
                  if [ $(( $(MERLIN_SAMPLE_ID) % 20 )) = 7 ] && [ ! -e again ]; then touch again; exit 104; fi
              chunk: {chunk}
              retry_delay: 0
              task_queue: sim
        - name: b
          description: goes sample by sample
          run:
              cmd: echo $(MERLIN_SAMPLE_ID) >> $LEDGER/b
              depends: [a]
              task_queue: sim
        - name: f
          description: a funnel
          run:
              cmd: echo funnel $(b.workspace) >> $LEDGER/f
              depends: [b_*]
              task_queue: train
    merlin:
        samples: {{file: samples.npy, column_labels: [X]}}
"""


@pytest.mark.slow
def test_ten_kills_of_workers_with_large_bites_lose_and_double_nothing(lab: Lab) -> None:
    # Given 500 samples, of which 5 % ask to be run again, and three workers that take more than 100 at a time
    random = random_of()
    np.save(lab.directory / "samples.npy", np.arange(500.0))
    study = lab.queue(lab.spec(CHAIN.format(chunk=120)))
    words = ("--queues", "sim,train", "--lease", "2", "--slots", "1")
    for _ in range(3):
        lab.work(*words)
    # When a worker is killed at ten random moments of the study, sometimes its guard and sometimes its engine
    for kill in range(10):
        assert not lab.ledger("f"), f"ended before kill {kill}: let the samples sleep longer"
        aim = len(lab.ledger("a")) + random.randrange(5, 30)
        wait_until(lambda aim=aim: len(lab.ledger("a")) >= min(aim, 480), "some more samples ran")
        time.sleep(random.uniform(0, 0.1))  # the moment itself is random: nothing is waited for
        victim = random.choice([worker for worker in lab.workers if worker.poll() is None])
        os.kill(random.choice([victim.pid, lab.engine_of(victim)]), signal.SIGKILL)
        victim.wait(timeout=20)
        lab.work(*words)
    status = lab.wait_for_end(study)
    # I expect every sample counted once, each child and the funnel run, and nothing left over
    assert status["state"] == "finished", status
    assert [status["by_step"][name]["finished"] for name in "abf"] == [500, 500, 1], status
    assert set(lab.ledger("a")) == set(lab.ledger("b")) == {str(i) for i in range(500)}
    assert lab.ledger("f")["funnel"] == 1
    lab.close()


def test_hundred_million_samples_are_queued_at_once_and_survive_a_dead_server(lab: Lab) -> None:
    # Given a sparse table of 100,000,000 samples, a chain whose second step nobody serves, and a funnel
    table = np.lib.format.open_memmap(lab.directory / "samples.npy", mode="w+", dtype="<f8", shape=(100_000_000,))
    del table
    client = lab.server.client()
    before = client.info("memory")["used_memory"]
    began = time.monotonic()
    study = lab.queue(
        lab.spec("""
        description: {name: huge, description: a hundred million}
        study:
            - name: a
              description: writes what it ran
              run: {cmd: "echo $(MERLIN_SAMPLE_ID) >> $LEDGER/a", task_queue: sim}
            - name: b
              description: nobody serves it
              run: {cmd: "true $(X)", depends: [a], task_queue: nobody}
            - name: f
              description: a funnel
              run: {cmd: "true", depends: [b_*], task_queue: nobody}
        merlin:
            samples: {file: samples.npy, column_labels: [X], level_max_dirs: 100}
        """)
    )
    assert time.monotonic() - began < 20, "queueing must not loop over samples"
    assert client.info("memory")["used_memory"] - before < 1_000_000
    # When the server and a worker are killed in the middle, and started again
    victim = lab.work("--queues", "sim", "--lease", "2")
    wait_until(lambda: len(lab.ledger("a")) >= 300, "some samples ran")
    lab.server.stop(signal.SIGKILL)
    victim.kill()
    victim.wait(timeout=20)
    lab.server.start()
    # The killed guard's engine may still settle what had ended, now that the server is back
    wait_until(lambda: not lab.leftovers(), "the victim's engine has ended")
    # Samples that had run and were not yet accounted will run again: as many as the ledger is ahead of the counters
    ran = len(lab.ledger("a"))
    ahead = ran - lab.study(study)["by_step"]["a"]["finished"]
    lab.work("--queues", "sim", "--lease", "2")
    wait_until(lambda: len(lab.ledger("a")) >= ran + 300, "some more samples ran", 60)
    wait_until(lambda: sum(count > 1 for count in lab.ledger("a").values()) >= ahead, "what was lost ran again", 60)
    lab.stop_workers()
    # I expect the counters to equal what the steps wrote, and each settled sample to have made one of the child ready
    status = lab.study(study)
    assert status["by_step"]["a"]["finished"] == len(lab.ledger("a"))
    assert status["by_step"]["b"]["ready"] == len(lab.ledger("a"))
    assert lab.server.client().info("memory")["used_memory"] < 64_000_000
    lab.mrun("cancel", study)
    assert lab.study(study)["state"] == "cancelled"
