"""One command, a worker on each node: `mrun work --nodes`, and workers of specs that a scheduler launches."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TestServer, wait_until
from tests.lab import BIN, Lab
from tests.launchers.kinds import faked
from tests.launchers.slurm import CORES, NODES

#: Two whole nodes, and memory that every step could take for itself.
WHOLE = ("--nodes=2", f"--ntasks={2 * CORES}", f"--ntasks-per-node={CORES}", "--mem=800", "--time=30")

PLAIN = """
    description: {name: plain, description: d}
    study:
        - {name: sim, description: d, run: {cmd: "bash LAB/sim $(X)"}}
    merlin:
        samples: {file: samples.npy, column_labels: [X]}
"""


def queued(lab: Lab, script: str, samples: int, spec: str = PLAIN) -> str:
    """A study whose samples run that script."""
    np.save(lab.directory / "samples.npy", np.arange(float(samples)))
    (lab.directory / "sim").write_text(textwrap.dedent(script))
    return lab.queue(lab.spec(spec.replace("LAB", str(lab.directory))))


def in_batch(lab: Lab, text: str, *options: str) -> None:
    """Submit a batch script in the lab; what it writes is in batch.out, what it ends with in batch.code."""
    path = lab.directory / "batch.sh"
    path.write_text(f"#!/bin/bash\n{textwrap.dedent(text)}\necho $? > code.new; mv code.new batch.code\n")
    subprocess.run(
        ["sbatch", f"--chdir={lab.directory}", "--output=batch.out", *options, str(path)],
        env=lab.environment, check=True, capture_output=True, timeout=60,
    )  # fmt: skip


def code_of_batch(lab: Lab) -> int:
    path = lab.directory / "batch.code"
    wait_until(path.exists, f"the batch script ends, see {lab.directory / 'batch.out'}", 60)
    return int(path.read_text())


def logged(lab: Lab, event: str) -> list[dict[str, object]]:
    """Lines of the workers' logs with that event."""
    path = lab.directory / "batch.out"
    lines = path.read_text().splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return [entry for entry in entries if entry.get("event") == event]


def test_a_worker_starts_on_each_node_with_all_that_the_node_has(lab):
    # Given many samples, whose steps start processes by srun on cores of their own
    study = queued(
        lab,
        """
        echo "$SLURMD_NODENAME" >> $LEDGER/nodes
        env | grep -E "^(SLURM_CPU_BIND|SLURM_STEP|SLURM_NTASKS|MRUN_LISTENS)" >> $LEDGER/left_over
        sleep 0.2
        """,
        40,
        PLAIN.replace('"bash LAB/sim', '"$(LAUNCHER) -n 1 true; bash LAB/sim').replace(
            "study:", "batch: {type: slurm}\n    study:", 1
        ),
    )
    # When one command is given two nodes
    in_batch(lab, "mrun work --queues merlin --nodes all --exit-when-done", *WHOLE, "--gres=gpu:2")
    # Then both run samples, with four slots each, and the command ends with them
    assert code_of_batch(lab) == 0, (lab.directory / "batch.out").read_text()
    status = lab.wait_for_end(study)
    assert status["state"] == "finished"
    assert status["by_step"]["sim"]["finished"] == 40
    assert set(lab.ledger("nodes")) == set(NODES)
    assert [one["slots"] for one in logged(lab, "worker_started")] == [CORES, CORES]
    assert len(logged(lab, "worker_stopped")) == 2
    # and scripts find nothing of what srun has set for the worker.
    assert not lab.ledger("left_over")


def test_a_batch_job_without_the_users_environment_and_with_memory_by_core(lab):
    # Given a job that Slurm gives neither the environment nor memory by node
    study = queued(lab, 'echo "$SLURMD_NODENAME" >> $LEDGER/nodes; sleep 0.2', 20)
    told = [f"export {name}={shlex.quote(value)}" for name, value in lab.environment.items() if name.isidentifier()]
    (lab.directory / "environment").write_text("\n".join(told))
    options = [option for option in WHOLE if not option.startswith("--mem")]
    # When its script sets what it needs, and starts a worker on each node
    work = ". ./environment\nmrun work --queues merlin --nodes all --exit-when-done"
    in_batch(lab, work, *options, "--mem-per-cpu=100", "--export=NONE")
    # Then the workers find it, too
    assert code_of_batch(lab) == 0, (lab.directory / "batch.out").read_text()
    assert lab.wait_for_end(study)["state"] == "finished"
    assert set(lab.ledger("nodes")) == set(NODES)


#: Says that it runs, and ends when it is let go, or at once if it has run before.
GATED = """
    echo "$$" >> $LEDGER/pids; echo "$1:$MRUN_RESUME" >> $LEDGER/began
    until [ -e LAB/go ]; do sleep 0.05; done
    echo "$1" >> $LEDGER/ended
"""


def running(lab: Lab, count: int, *options: str) -> int:
    """So many gated samples run on both nodes, below one command in a batch job; its pid."""
    queued(lab, GATED.replace("LAB", str(lab.directory)), count)
    words = " ".join(("mrun work --queues merlin --nodes 2 --slots 1", *options))
    in_batch(lab, f"{words} & echo $! > command.new; mv command.new command; wait $!; code=$?; [ $code -eq 0 ]", *WHOLE)
    wait_until(lambda: len(lab.ledger("began")) == 2, f"two samples run, see {lab.directory / 'batch.out'}", 60)
    return int((lab.directory / "command").read_text())


def test_the_first_signal_drains_all_workers(lab):
    # Given a running sample on each node, and more that wait
    command = running(lab, 6)
    # When the command is asked to stop
    os.kill(command, signal.SIGTERM)
    wait_until(lambda: len(logged(lab, "worker_signalled")) == 2, "both workers have heard it")
    # Then what runs may finish, and nothing else is begun
    assert not lab.ledger("ended")
    (lab.directory / "go").touch()
    assert code_of_batch(lab) == 0, (lab.directory / "batch.out").read_text()
    assert len(lab.ledger("began")) == len(lab.ledger("ended")) == 2
    assert len(logged(lab, "worker_stopped")) == 2


def test_the_second_signal_ends_what_runs_and_hands_it_back(lab):
    command = running(lab, 2)
    for heard in (2, 4):
        os.kill(command, signal.SIGINT)
        wait_until(lambda heard=heard: len(logged(lab, "worker_signalled")) == heard, "both workers have heard it")
    assert code_of_batch(lab) == 0, (lab.directory / "batch.out").read_text()
    assert not lab.ledger("ended")
    # It is run again, as what was begun.
    (lab.directory / "go").touch()
    lab.mrun("work", "--queues", "merlin", "--exit-when-done")
    assert set(lab.ledger("ended")) == {"0.0", "1.0"}
    assert set(lab.ledger("began")) == {"0.0:", "1.0:", "0.0:1", "1.0:1"}


@pytest.mark.parametrize("victim", ["command", "srun"])
def test_nothing_is_left_over_when_what_started_the_workers_is_killed(lab, victim):
    # Given a running sample on each node, in an allocation that goes on
    command = running(lab, 2)
    pids = list(lab.ledger("pids"))
    pid = command if victim == "command" else srun_of(command)
    # When
    os.kill(pid, signal.SIGKILL)
    # Then the workers end, and what they ran
    wait_until(lambda: not any(Path("/proc", one).exists() for one in pids), "the scripts have ended")
    wait_until(lambda: not workers_left(lab), "no worker is left")
    assert not lab.ledger("ended")


def workers_left(lab: Lab) -> list[str]:
    return [words for words in lab.leftovers() if "mrun work" in words]


def srun_of(command: int) -> int:
    """The srun that a command has started, below its guard."""
    children = subprocess.run(["pgrep", "-P", str(command)], capture_output=True, text=True, check=True).stdout.split()
    (srun,) = subprocess.run(["pgrep", "-P", children[0]], capture_output=True, text=True, check=True).stdout.split()
    return int(srun)


def test_the_exit_code_is_the_worst_of_the_workers(lab):
    # Given a server that is not there
    in_batch(lab, "mrun --broker unix:///nowhere/s work --queues merlin --nodes all", *WHOLE)
    assert code_of_batch(lab) == 5, (lab.directory / "batch.out").read_text()
    assert (lab.directory / "batch.out").read_text().count("error: ") >= 2


def test_what_an_allocation_can_not_give_is_one_sentence(lab):
    # Outside of one
    done = tried(lab, "work", "--queues", "merlin", "--nodes", "all")
    assert done.returncode == 6
    assert "'--nodes all' needs an allocation, and here is none." in done.stderr
    assert "fix: Run it in a batch script" in done.stderr
    # and in one that is too small
    in_batch(lab, "mrun work --queues merlin --nodes 3", *WHOLE)
    assert code_of_batch(lab) == 2
    assert "3 nodes are asked for, and the allocation" in (lab.directory / "batch.out").read_text()


def tried(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    """A command that may fail."""
    return subprocess.run(
        [BIN / "mrun", *words], cwd=lab.directory, env=lab.environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


LAUNCHED = """
    description: {name: launched, description: d}
    batch: {type: slurm, queue: QUEUE, walltime: "0:20:00", launch_pre: "export BEFORE=`echo yes`"}
    study:
        - {name: sim, description: d, run: {cmd: "bash LAB/sim $(X)"}}
    merlin:
        samples: {file: samples.npy, column_labels: [X]}
        resources:
            workers:
                pair: {args: -c 2, nodes: 2, steps: [sim]}
"""


def test_outside_of_an_allocation_a_spec_gets_one_for_its_workers(lab):
    script = 'echo "$SLURMD_NODENAME:$BEFORE" >> $LEDGER/nodes; sleep 0.2'
    study = queued(lab, script, 20, LAUNCHED.replace("QUEUE", "batch"))
    done = tried(lab, "work", "spec.yaml", "--exit-when-done")
    assert done.returncode == 0, done.stderr
    assert lab.wait_for_end(study)["state"] == "finished"
    assert set(lab.ledger("nodes")) == {f"{node}:yes" for node in NODES}


def test_a_scheduler_that_refuses_is_told_with_its_words(lab):
    queued(lab, "true", 2, LAUNCHED.replace("QUEUE", "nope"))
    done = tried(lab, "work", "spec.yaml")
    assert done.returncode == 6, done.stderr
    assert "slurm did not start the workers: error: Job submit/allocate failed: Invalid partition" in done.stderr


def test_an_allocation_that_a_spec_got_ends_with_the_command_that_is_killed(lab, slurm):
    # Given running samples in an allocation that the workers have made
    queued(lab, GATED.replace("LAB", str(lab.directory)), 4, LAUNCHED.replace("QUEUE", "batch"))
    command = lab.work("spec.yaml")
    wait_until(lambda: len(lab.ledger("began")) == 4, "the samples run", 60)
    # When the command is killed
    command.kill()
    # Then the workers end, and the allocation, which nobody needs any more
    wait_until(lambda: not workers_left(lab), "no worker is left")
    wait_until(lambda: not slurm.run("squeue", "--noheader").stdout.strip(), "there is no allocation left")
    assert not lab.ledger("ended")


@pytest.fixture
def flux_lab(tmp_path: Path, own_server: TestServer) -> Iterator[Lab]:
    """A lab in an instance of a Flux that is not real, with two brokers."""
    lab = Lab(tmp_path, own_server)
    flux = faked("flux", tmp_path).environment
    path = f"{flux['PATH'].partition(os.pathsep)[0]}{os.pathsep}{lab.environment['PATH']}"
    lab.environment |= {name: flux[name] for name in ("FLUX_URI", "FLUX_ENCLOSING_ID", "FAKE_DIR")} | {"PATH": path}
    yield lab
    lab.close()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["done", "signal", "kill"])
def test_flux_starts_a_worker_for_each_broker(flux_lab, how):
    # Given samples that wait for a gate
    lab = flux_lab
    script = 'echo "$FAKE_RANK" >> $LEDGER/began; until [ -e LAB/go ]; do sleep 0.05; done; echo "$1" >> $LEDGER/ended'
    queued(lab, script.replace("LAB", str(lab.directory)), 6)
    words = ["--queues", "merlin", "--nodes", "all", "--slots", "1", *(["--exit-when-done"] if how == "done" else [])]
    # When one command starts the workers
    command = lab.work(*words)
    wait_until(lambda: set(lab.ledger("began")) == {"0", "1"}, "both workers run samples")
    # Then they run all, or drain, or end with it
    if how == "kill":
        command.kill()
        wait_until(lambda: not workers_left(lab), "no worker is left")
        assert not lab.ledger("ended")
        return
    if how == "signal":
        command.terminate()
        log = lab.directory / "worker-0.log"
        wait_until(lambda: log.read_text().count("worker_signalled") == 2, "both workers have heard it")
    (lab.directory / "go").touch()
    assert command.wait(timeout=60) == 0
    assert len(lab.ledger("ended")) == (6 if how == "done" else 2)
