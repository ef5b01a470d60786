"""Commands under `nohup` outlive their terminal, and others do not."""

from __future__ import annotations

import signal
import subprocess

import numpy as np
import pytest

from tests.conftest import wait_until
from tests.lab import BIN, Lab

SPEC = """
    description: {name: one, description: one step}
    study:
        - name: a
          description: a step
          run: {cmd: "echo $(X) >> $LEDGER/a; sleep 0.3"}
    merlin:
        samples: {file: samples.npy, column_labels: [X]}
"""


@pytest.mark.parametrize("command", ["work", "run"])
@pytest.mark.parametrize("is_ignored", [True, False])
def test_hangup_ends_a_command_unless_it_is_ignored(lab: Lab, command: str, is_ignored: bool) -> None:
    np.save(lab.directory / "samples.npy", np.arange(8.0))
    spec = lab.spec(SPEC)
    words = ["run", "--slots", "1", spec] if command == "run" else ["work", "--queues", "merlin", "--exit-when-done"]
    if command == "work":
        lab.queue(spec)
    # Given what `nohup` does, or does not
    script = 'trap \'\' HUP; exec "$0" "$@"' if is_ignored else 'exec "$0" "$@"'
    with (lab.directory / "worker-hangup.log").open("wb") as log:
        started = subprocess.Popen(
            ["bash", "-c", script, BIN / "mrun", *words, "--slots", "1"],
            cwd=lab.directory, env=lab.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    wait_until(lambda: lab.ledger("a"), "it works")
    started.send_signal(signal.SIGHUP)
    code = started.wait(timeout=60)
    if is_ignored:
        assert code == 0, lab.logs()
        assert sorted(lab.ledger("a").values()) == [1] * 8
    else:
        assert code == (128 + signal.SIGHUP if command == "run" else 0), lab.logs()
        assert len(lab.ledger("a")) < 8
