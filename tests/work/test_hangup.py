"""Commands under `nohup` outlive their terminal, and others do not."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from tests.conftest import wait_until
from tests.lab import Lab

SPEC = """
    description: {name: one, description: one step}
    study:
        - name: a
          description: a step
          run: {cmd: "echo $(X) >> $LEDGER/a; sleep 0.3"}
    merlin:
        samples: {file: samples.npy, column_labels: [X]}
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["work", "run"])
@pytest.mark.parametrize("is_ignored", [True, False])
def test_hangup_ends_a_command_unless_it_is_ignored(lab: Lab, command: str, is_ignored: bool) -> None:
    np.save(lab.directory / "samples.npy", np.arange(8.0))
    spec = lab.spec(SPEC)
    words = ["run", spec] if command == "run" else ["work", "--queues", "merlin", "--exit-when-done"]
    if command == "work":
        lab.queue(spec)
    # Given what `nohup` does, or does not
    started = lab.work_behind("trap '' HUP" if is_ignored else ":", *words, "--slots", 1)
    wait_until(lambda: lab.ledger("a"), "it works")
    started.send_signal(signal.SIGHUP)
    code = started.wait(timeout=60)
    if is_ignored:
        assert code == 0, lab.logs()
        assert sorted(lab.ledger("a").values()) == [1] * 8
    else:
        assert code == (128 + signal.SIGHUP if command == "run" else 0), lab.logs()
        assert len(lab.ledger("a")) < 8
