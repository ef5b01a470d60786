"""Workers and commands that are started in odd ways: by daemons, with closed streams."""

from __future__ import annotations

import numpy as np
import pytest

from tests.lab import Lab

SPEC = """
    description: {name: one, description: one step}
    study:
        - name: a
          description: a step
          run: {cmd: echo $(X) >> $LEDGER/a}
    merlin:
        samples: {file: samples.npy, column_labels: [X]}
"""


@pytest.mark.parametrize("command", ["work", "run"])
@pytest.mark.parametrize(
    "oddity",
    [
        "trap '' CHLD",
        pytest.param("exec <&-", marks=pytest.mark.slow),
        pytest.param("exec 2>&-", marks=pytest.mark.slow),
        "exec <&- >&- 2>&-",
    ],
)
def test_odd_start_makes_no_difference(lab: Lab, command: str, oddity: str) -> None:
    np.save(lab.directory / "samples.npy", np.arange(20.0))
    spec = lab.spec(SPEC)
    words = ["run", str(spec)] if command == "run" else ["work", "--queues", "merlin", "--exit-when-done"]
    if command == "work":
        lab.queue(spec)
    # Given what only a shell can do to what it starts
    started = lab.work_behind(oddity, *words)
    assert started.wait(timeout=60) == 0, lab.logs()
    assert sorted(lab.ledger("a").values()) == [1] * 20
    assert "Traceback" not in lab.logs()
