"""Workers that wait for work: what they cost nothing for, they must still hear of, and be heard of."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.conftest import wait_until
from tests.lab import Lab
from tests.work.test_worker import one_step


def wait_known(lab: Lab, count: int) -> None:
    wait_until(lambda: len(lab.json("inspect")["workers"]) == count, lambda: f"{count} workers are known\n{lab.logs()}")


@pytest.mark.slow
def test_idle_worker_hears_of_a_stop_at_once(lab: Lab) -> None:
    # Given two workers that wait for work, of which one is asked to stop
    first, second = [lab.work("--queues", "sim") for _ in range(2)]
    wait_known(lab, 2)
    name = next(row["worker"] for row in lab.json("inspect")["workers"] if row["pid"] == lab.engine_of(first))
    lab.mrun("stop", name)
    # I expect it to go long before it would look for work again, and the other one to stay
    assert first.wait(timeout=3) == 0
    wait_known(lab, 1)
    assert second.poll() is None


@pytest.mark.slow
def test_idle_worker_with_a_short_lease_stays_known(lab: Lab) -> None:
    lease_s = 2
    lab.work("--queues", "sim", "--lease", lease_s)
    wait_known(lab, 1)
    deadline = time.monotonic() + 3 * lease_s

    def is_over() -> bool:
        assert len(lab.json("inspect")["workers"]) == 1, lab.logs()
        return time.monotonic() > deadline

    wait_until(is_over, "three leases have passed")
    assert "worker_reclaimed" not in lab.logs()


@pytest.mark.slow
def test_samples_of_a_tender_that_is_killed_run_on_an_idle_worker_within_one_and_a_half_leases(lab: Lab) -> None:
    # Given a worker that tends and runs a long sample, and one that waits
    lease_s = 4
    study = one_step(lab, "echo $(X) >> $LEDGER/a; [ $(wc -l < $LEDGER/a) = 2 ] || sleep 60 # $(X)", samples=1)
    words = ("--queues", "merlin", "--slots", "1", "--lease", lease_s)
    busy = lab.work(*words)
    wait_until(lambda: lab.ledger("a"), "it runs")
    lab.work(*words)
    wait_known(lab, 2)
    # When the first one is killed
    killed_at = time.monotonic()
    os.kill(lab.engine_of(busy), signal.SIGKILL)
    # I expect the other one to run it in time; a second is for the processes
    wait_until(lambda: sum(lab.ledger("a").values()) == 2, lambda: f"the other one runs it\n{lab.logs()}")
    assert time.monotonic() - killed_at < 1.5 * lease_s + 1
    assert lab.wait_for_end(study)["state"] == "finished"
