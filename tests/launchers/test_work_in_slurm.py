"""A worker in a real Slurm allocation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import wait_until
from tests.lab import Lab
from tests.launchers.slurm import CORES, NODES

PACKED = """
    description: {name: packed, description: srun from many samples at a time}
    batch: {type: slurm}
    study:
        - {name: one, description: d, run: {procs: 1, cmd: "$(LAUNCHER) ./../../../../report one $(X)"}}
        - {name: two, description: d, run: {procs: 2, cmd: "$(LAUNCHER) ./../../../../report two $(X)"}}
        - {name: four, description: d, run: {procs: 4, cmd: "$(LAUNCHER) ./../../../../report four $(X)"}}
    merlin:
        samples: {file: samples.npy, column_labels: [X]}
"""


def in_batch(lab: Lab, text: str, *options: str) -> Path:
    """Submit a batch script in the lab; its output."""
    path = lab.directory / "batch.sh"
    path.write_text(f"#!/bin/bash\n{text}\n")
    subprocess.run(
        ["sbatch", f"--chdir={lab.directory}", "--output=batch.out", "--open-mode=append", *options, str(path)],
        env=lab.environment, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return lab.directory / "batch.out"


def logged(path: Path, event: str) -> list[dict[str, object]]:
    """A worker's log lines with that event."""
    lines = path.read_text().splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return [entry for entry in entries if entry.get("event") == event]


def run_packed(lab: Lab, samples: int, workers: str) -> None:
    np.save(lab.directory / "samples.npy", np.arange(float(samples)))
    report = 'echo "$SLURMD_NODENAME" >> $LEDGER/nodes; echo "$2" >> $LEDGER/$1'
    study = lab.queue(lab.spec(PACKED.replace("./../../../../report", f"bash {lab.directory}/report")))
    (lab.directory / "report").write_text(f"{report}\n")
    options = ("--nodes=2", f"--ntasks={2 * CORES}", f"--ntasks-per-node={CORES}", "--time=30", "--mem=800")
    out = in_batch(lab, f"mrun work --queues merlin {workers} --exit-when-done", *options)
    status = lab.wait_for_end(study, 100)
    assert status["state"] == "finished", out.read_text()
    # Every process of every sample ran, on both nodes, and nothing failed.
    for name, procs in (("one", 1), ("two", 2), ("four", 4)):
        assert status["by_step"][name]["finished"] == samples, out.read_text()
        assert lab.ledger(name) == {str(float(number)): procs for number in range(samples)}
    assert set(lab.ledger("nodes")) == set(NODES)


@pytest.mark.parametrize("workers", [f"--slots {2 * CORES}", "--nodes all"])
def test_launchers_of_many_samples_share_an_allocation_of_two_nodes(lab, workers):
    run_packed(lab, 10, workers)


@pytest.mark.slow
def test_two_hundred_samples_with_launchers_of_one_two_and_four_procs(lab):
    run_packed(lab, 67, f"--slots {2 * CORES}")


def test_a_worker_knows_its_cores_and_the_end_of_its_allocation(lab, own_server):
    # Given an allocation of three of four cores, for ten minutes
    out = in_batch(lab, "exec mrun work --queues merlin", "--ntasks=1", "--cpus-per-task=3", "--time=10")
    # When a worker has started there
    wait_until(lambda: logged(out, "worker_started"), f"the worker starts: {out}")
    (started,) = logged(out, "worker_started")
    # Then
    assert started["slots"] == 3
    (key,) = own_server.client().keys("*}:2:worker:*[0-9a-f]")
    ends_at_s = int(own_server.client().hget(key, "ends_at_ms")) / 1000
    assert 540 < ends_at_s - time.time() <= 600


STARTED = """
    description: {name: started, description: scripts that srun starts}
    batch: {type: slurm}
    study:
        - {name: one, description: d, run: {mode: step, procs: 1, cmd: "bash REPORT one $(X)"}}
        - {name: two, description: d, run: {mode: step, procs: 2, cmd: "bash REPORT two $(X)"}}
        - {name: four, description: d, run: {mode: step, procs: 2, cores per task: 2, cmd: "bash REPORT four $(X)"}}
        - {name: codes, description: d, run: {mode: step, cmd: "exit $((${MRUN_SAMPLE_ID} + 1)) # $(X)"}}
        - {name: killed, description: d, run: {mode: step, cmd: "kill -9 $$ # $(X)"}}
    merlin:
        samples: {file: samples.npy, column_labels: [X], files: lean}
"""


def test_scripts_are_started_by_srun_once_each_on_cores_of_their_own(lab):
    # Given steps whose scripts need one, two and four cores, and some that fail
    np.save(lab.directory / "samples.npy", np.arange(3.0))
    study = lab.queue(lab.spec(STARTED.replace("REPORT", f"{lab.directory}/report")))
    report = (
        'echo "$SLURM_CPUS_PER_TASK" >> $LEDGER/cores.$1; echo "$2" >> $LEDGER/$1; echo "$SLURM_STEP_ID" >> $LEDGER/ids'
    )
    (lab.directory / "report").write_text(f"{report}\n")
    # When a worker runs them in an allocation
    options = ("--nodes=2", f"--ntasks={2 * CORES}", f"--ntasks-per-node={CORES}", "--time=30", "--mem=800")
    out = in_batch(lab, "mrun work --queues merlin --slots 4 --exit-when-done", *options)
    status = lab.wait_for_end(study, 100)
    # Then each script ran once, in a step of its own
    for name, cores in (("one", 1), ("two", 2), ("four", 4)):
        assert status["by_step"][name]["finished"] == 3, out.read_text()
        assert lab.ledger(name) == {"0.0": 1, "1.0": 1, "2.0": 1}
        assert lab.ledger(f"cores.{name}") == {str(cores): 3}
    assert len(lab.ledger("ids")) == 9
    # and what failed has failed by itself
    assert status["by_step"]["codes"]["failed"] == status["by_step"]["killed"]["failed"] == 3
    reasons = {failure["reason"] for failure in status["failed_samples"]}
    assert reasons == {"exit code 1", "exit code 2", "exit code 3", "killed by SIGKILL"}


def test_a_script_whose_node_goes_down_runs_again_elsewhere(lab, slurm):
    # Given a job that outlives its nodes, and a script that srun has started on the second one
    np.save(lab.directory / "samples.npy", np.arange(1.0))
    text = """
        description: {name: node, description: a node goes down}
        batch: {type: slurm}
        study:
            - name: a
              description: d
              run:
                  mode: step
                  procs: 4
                  cmd: |
                      echo "$SLURMD_NODENAME:$MRUN_RESUME" >> $LEDGER/began
                      while [ "$SLURMD_NODENAME" = n2 ]; do sleep 0.1; done # $(X)
        merlin:
            samples: {file: samples.npy, column_labels: [X]}
    """
    study = lab.queue(lab.spec(text))
    # The first node is full until somebody says go.
    fill = "srun -N1 -n1 -c4 -w n1 --exact bash -c 'touch full; until [ -e go ]; do sleep 0.1; done' &"
    work = f"{fill}\nuntil [ -e full ]; do sleep 0.1; done\nmrun work --queues merlin --slots 1 --exit-when-done"
    options = ("--nodes=2", f"--ntasks={2 * CORES}", f"--ntasks-per-node={CORES}", "--time=30", "--no-kill")
    out = in_batch(lab, work, *options)
    wait_until(lambda: lab.ledger("began") == {"n2:": 1}, f"it runs on the second node, see {out}")
    # When that goes down
    slurm.set_node("n2", "down")
    (lab.directory / "go").touch()
    # Then it is run again on the first, and told that it was begun before
    status = lab.wait_for_end(study, 60)
    assert status["by_step"]["a"]["finished"] == 1, out.read_text()
    assert lab.ledger("began") == {"n2:": 1, "n1:1": 1}


def test_a_killed_worker_takes_what_srun_started_with_it(lab):
    # Given a script that srun has started
    np.save(lab.directory / "samples.npy", np.arange(1.0))
    text = """
        description: {name: left, description: d}
        batch: {type: slurm}
        study: [{name: a, description: d, run: {mode: step, cmd: "echo $$ >> $LEDGER/pid; sleep 600 # $(X)"}}]
        merlin: {samples: {file: samples.npy, column_labels: [X]}}
    """
    lab.queue(lab.spec(text))
    work = "mrun work --queues merlin --slots 1 & echo $! > guard; wait; sleep 600"
    in_batch(lab, work, "--ntasks=2", "--nodes=1", "--time=30")
    wait_until(lambda: lab.ledger("pid"), "the script runs")
    script = Path("/proc") / next(iter(lab.ledger("pid")))
    # When the worker's engine is killed
    guard = (lab.directory / "guard").read_text().strip()
    os.kill(int(Path(f"/proc/{guard}/task/{guard}/children").read_text().split()[0]), signal.SIGKILL)
    # Then its guard ends srun, and Slurm the script, though the allocation goes on
    wait_until(lambda: not script.exists(), "the script has ended")
