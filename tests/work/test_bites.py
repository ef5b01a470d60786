"""Bites of quick samples do not keep slow ones from slots that are free."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import wait_until
from tests.lab import Lab

SPEC = """
    description: {name: bites, description: quick samples and then slow ones}
    study:
        - name: a
          description: the last eight are slow
          run:
              cmd: |
                  [ $(MERLIN_SAMPLE_ID) -lt 600 ] && exit 0
                  echo $(MERLIN_SAMPLE_ID) >> $LEDGER/begun
                  while [ -e $LEDGER/hold ]; do sleep 0.05; done
    merlin:
        samples: {file: samples.npy, column_labels: [X]}
"""


@pytest.mark.slow
def test_slots_share_slow_samples_that_follow_quick_ones(lab: Lab) -> None:
    # Given 600 samples of no time, after which bites are long, and eight that last until they are let go
    np.save(lab.directory / "samples.npy", np.arange(608.0))
    (lab.ledger_dir / "hold").touch()
    study = lab.queue(lab.spec(SPEC))
    for _ in range(2):
        lab.work("--queues", "merlin", "--slots", 2)
    # I expect all four slots of both workers to come to hold a slow one, whoever's bite they were in
    wait_until(lambda: len(lab.ledger("begun")) == 4, f"four slow samples run at once: see {study}")
    # and, when those are let go, each of the eight to have run once
    (lab.ledger_dir / "hold").unlink()
    status = lab.wait_for_end(study)
    assert lab.ledger("begun") == {str(i): 1 for i in range(600, 608)}
    assert status["by_step"]["a"]["finished"] == 608


STEADY = """
    description: {name: steady, description: quick samples and then many that are slower than the pace says}
    study:
        - name: a
          description: none of them takes the two seconds after which a sample is slow
          run:
              cmd: |
                  [ $(MERLIN_SAMPLE_ID) -lt 600 ] && exit 0
                  echo $(MERLIN_SAMPLE_ID) >> $LEDGER/begun
                  sleep 1
    merlin:
        samples: {file: samples.npy, column_labels: [X]}
"""
URGENT = """
    description: {name: urgent, description: one sample}
    study:
        - name: u
          description: it does not wait for a bite of hundreds
          run: {cmd: echo}
"""


@pytest.mark.slow
def test_bite_of_samples_that_got_slower_ends_before_its_samples_do(lab: Lab) -> None:
    # Given a worker whose two slots bit off what was to last a second, and each sample of it lasts one
    np.save(lab.directory / "samples.npy", np.arange(5000.0))
    lab.queue(lab.spec(STEADY))
    lab.work("--queues", "merlin", "--slots", 2)
    wait_until(lambda: len(lab.ledger("begun")) >= 2, "both slots are at slow samples")
    # When an urgent study comes
    urgent = lab.queue(lab.spec(URGENT), "--priority", 10)
    # I expect it to have its turn, long before a bite of some hundred samples ends
    lab.wait_for_end(urgent)
    assert len(lab.ledger("begun")) < 50
