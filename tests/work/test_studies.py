"""Holding, releasing, ordering and forgetting studies; and a `mrun queue` that is killed."""

from __future__ import annotations

import signal
import subprocess
import time

import numpy as np
import pytest

from tests.conftest import wait_until
from tests.lab import BIN, Lab, random_of

SPEC = """
    description: {name: one, description: one step}
    study:
        - name: a
          description: a step
          run: {cmd: "echo $MRUN_STUDY >> $LEDGER/a; sleep 0.05 # $(X)", chunk: 1}
    merlin:
        samples: {file: samples.npy, column_labels: [X]}
"""


@pytest.mark.slow
def test_held_study_waits_while_others_run_and_is_forgotten_when_it_has_ended(lab: Lab) -> None:
    np.save(lab.directory / "samples.npy", np.arange(10.0))
    spec = lab.spec(SPEC)
    held, other = lab.queue(spec), lab.queue(spec)
    assert lab.json("hold", held) == [{"study": held, "status": "ok"}]
    lab.work("--queues", "merlin", "--slots", "1")
    lab.wait_for_end(other)
    assert lab.study(held)["state"] == "held"
    assert lab.ledger("a")[held] == 0
    lab.mrun("forget", held)
    lab.mrun("release", held)
    assert lab.wait_for_end(held)["by_step"]["a"]["finished"] == 10
    workspace = lab.study(held)["workspace"]
    assert lab.json("forget", "all") == [{"study": one, "status": "ok"} for one in (held, other)]
    assert lab.json("status") == []
    # The workspace still tells how to go on
    assert lab.json("restart", workspace)["queued"] is None


@pytest.mark.slow
def test_study_with_a_higher_priority_is_worked_on_first(lab: Lab) -> None:
    np.save(lab.directory / "samples.npy", np.arange(10.0))
    spec = lab.spec(SPEC)
    first, second = lab.queue(spec), lab.queue(spec)
    lab.mrun("priority", second, "7")
    assert lab.study(second)["priority"] == 7
    lab.work("--queues", "merlin", "--slots", "1")
    lab.wait_for_end(first)
    order = (lab.ledger_dir / "a").read_text().split()
    assert order == [second] * 10 + [first] * 10
    lab.mrun("priority", first, "many", code=2)


def test_queue_that_is_killed_leaves_a_whole_study_or_none(lab: Lab) -> None:
    # Given a study of many nodes, whose queueing takes a while
    spec = lab.spec("""
        description: {name: wide, description: many nodes}
        global.parameters:
            P: {values: [VALUES], label: P.%%}
        study:
            - name: a
              description: a step
              run: {cmd: "true $(P)"}
            - name: b
              description: after it
              run: {cmd: "true $(P)", depends: [a]}
    """)
    spec.write_text(spec.read_text().replace("VALUES", ", ".join(map(str, range(3000)))))
    random, client = random_of(), lab.server.client()
    began = time.monotonic()
    lab.queue(spec)
    whole_s = time.monotonic() - began
    # When it is killed at random moments, again and again
    for _ in range(6):
        queueing = subprocess.Popen([BIN / "mrun", "queue", spec], cwd=lab.directory, env=lab.environment,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        time.sleep(random.uniform(0.3, 1) * whole_s)  # the moment itself
        queueing.send_signal(signal.SIGKILL)
        queueing.wait(timeout=20)
    # I expect only whole studies to be known and claimable, and the rest to expire
    studies = {one["study"]: one for one in lab.json("status")}
    for one in studies.values():
        assert sum(step["ready"] + step["waiting"] for step in one["steps"]) == 6000, one
    assert {row["study"] for row in lab.json("inspect")["queues"]} == set(studies)
    for key in client.scan_iter("*:study:*"):
        if key.decode().split(":")[3] not in studies:
            assert client.ttl(key) > 0, key
    wait_until(lambda: not lab.leftovers(), "no process is left")


@pytest.mark.slow
def test_worker_takes_a_study_by_any_name_of_it_and_refuses_one_that_is_not_there(lab: Lab) -> None:
    np.save(lab.directory / "samples.npy", np.arange(4.0))
    spec = lab.spec(SPEC)
    other, study = lab.queue(spec), lab.queue(spec)
    lab.mrun("work", "--queues", "merlin", "--study", "last", "--exit-when-done")
    assert lab.ledger("a") == {study: 4}
    lab.mrun("work", "--queues", "merlin", "--study", other[:6], "--exit-when-done")
    assert lab.ledger("a") == {study: 4, other: 4}
    lab.mrun("work", "--queues", "merlin", "--study", "nosuch", code=4)
