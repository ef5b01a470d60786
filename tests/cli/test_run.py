"""`mrun run`: one command from a spec to results, and what becomes of it when somebody interrupts or kills it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.cli.homes import Home, ended
from tests.conftest import wait_until

GATED = """
    description: {name: gated, description: its samples wait for the test}
    env: {variables: {OUTPUT_PATH: ./studies}}
    study:
      - name: sim
        description: x
        run:
          cmd: |
            echo $$ >> started
            until [ -e "$(SPECROOT)/gate" ]; do sleep 0.02; done
            echo $(X)
    merlin: {samples: {file: samples.csv, column_labels: [X]}}
"""


def started(home: Home) -> list[Path]:
    return list(home.work.glob("studies/*/sim/*/started"))


@pytest.mark.slow
def test_run_says_which_step_asks_for_more_cpus_than_its_worker_has(home: Home) -> None:
    home.write(
        "spec.yaml",
        """
        description: {name: large, description: written for a larger machine}
        study:
          - {name: small, description: x, run: {cmd: 'true', procs: 2}}
          - {name: sim, description: x, run: {cmd: 'true', procs: 9000}}
          - {name: fit, description: x, run: {cmd: 'true', procs: $(P), depends: [sim]}}
        global.parameters: {P: {values: [2, 3, 4], label: P.%%}}
        """,
    )
    squeezed = "the worker has 3 CPUs; 'sim' asks for 9000, 'fit' asks for 4: they take all of them, and run alone"
    done = home.run("run", "spec.yaml", "--slots", "3")
    assert (done.returncode, done.stderr.count(squeezed)) == (0, 1), done.stderr
    # Nothing is squeezed where there is enough
    done = home.run("run", "spec.yaml", "--resources", "cpus=9000")
    assert (done.returncode, "run alone" in done.stderr) == (0, False), done.stderr


def test_run_shows_results_and_says_where_they_are_and_which_server_it_used(home: Home) -> None:
    home.write("samples.csv", "1\n2\n")
    home.write(
        "spec.yaml",
        """
        description: {name: sums, description: x}
        env: {variables: {OUTPUT_PATH: ./studies}}
        study:
          - {name: sim, description: x, run: {cmd: echo $(X)}}
          - name: total
            description: x
            run: {cmd: 'echo the sum is $(( $(cat $(sim.workspace)/*/sim.out | paste -sd+) ))', depends: [sim_*]}
        merlin: {samples: {file: samples.csv, column_labels: [X]}}
        """,
    )
    done = home.run("run", "spec.yaml")
    assert done.returncode == 0, done.stderr
    (workspace,) = home.study_dirs()
    # stdout: the study, its steps, and what the last step printed
    assert f"workspace  {workspace}\n" in done.stdout
    assert f"{workspace}/total/total.out:\nthe sum is 3\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("all 3 scripts finished in ")
    # stderr: what a person wants to know on the way
    assert "sums: 2 steps, 2 samples; 3 scripts to run" in done.stderr
    assert "your own server on this host, started now; it goes on running until `mrun server stop`" in done.stderr
    assert "{" not in done.stderr, "no log lines of the worker"
    # Nothing but the server is left
    assert home.workers_and_steps() == {}
    # The same as JSON, and as ids
    value_done, quiet_done = home.run("run", "spec.yaml", "--json"), home.run("--quiet", "run", "spec.yaml")
    value = json.loads(value_done.stdout)
    assert value["studies"][0]["state"] == "finished"
    assert list(value["outputs"].values()) == ["the sum is 3\n"]
    assert value["failed_samples"] == []
    assert value["server"].startswith("unix://")
    assert quiet_done.stdout == home.ok("status", "last", "-q")
    assert quiet_done.stderr == value_done.stderr == ""


def test_run_ends_with_7_and_says_which_samples_failed_and_why(home: Home) -> None:
    home.write("samples.csv", "exit 0\nexit 1\nexit 101\nkill -SEGV $$\n")
    home.write(
        "spec.yaml",
        """
        description: {name: fails, description: x}
        env: {variables: {OUTPUT_PATH: ./studies}}
        study:
          - {name: sim, description: x, run: {cmd: $(DO)}}
          - {name: total, description: x, run: {cmd: echo goes on, depends: [sim_*]}}
        merlin: {samples: {file: samples.csv, column_labels: [DO]}}
        """,
    )
    done = home.run("run", "spec.yaml")
    assert done.returncode == 7, done.stderr
    (workspace,) = home.study_dirs()
    for sample, why in ((1, "exit code 1"), (2, "exit code 101"), (3, "killed by SIGSEGV")):
        assert f"sim, sample {sample}: {why}  in {workspace}/sim/0{sample}\n" in done.stdout
    assert "goes on\n" in done.stdout, "Merlin's contract: a funnel over failed samples runs"
    assert done.stdout.splitlines()[-1].startswith("3 of 5 scripts did not finish")
    assert "Traceback" not in done.stderr
    assert home.run("wait", "last").returncode == 7
    (status,) = home.json("status", "last")
    assert (status["state"], status["failures"]) == ("finished", 3)
    assert [one["reason"] for one in status["failed_samples"]] == ["exit code 1", "exit code 101", "killed by SIGSEGV"]


def test_first_interrupt_lets_running_samples_finish_and_leaves_the_study_queued(home: Home) -> None:
    # Given a study of three samples, of which two run
    home.write("samples.csv", "1\n2\n3\n")
    home.write("spec.yaml", GATED)
    process = home.start("run", "spec.yaml", "--slots", "2")
    wait_until(lambda: len(started(home)) == 2, "two samples run")
    # When it is interrupted once, and the samples end after that
    process.send_signal(signal.SIGINT)
    wait_until(lambda: "1" in [home_is_draining(home)], "the worker drains")
    (home.work / "gate").touch()
    done = ended(process)
    # I expect them to be finished, the third to be still there, and to be told how to go on
    assert done.returncode == 130
    assert "letting what runs finish" in done.stderr
    assert "mrun work --queues merlin" in done.stderr
    (status,) = home.json("status")
    assert status["state"] == "running"
    assert (status["steps"][0]["finished"], status["steps"][0]["ready"]) == (2, 1)
    assert home.workers_and_steps() == {}
    assert home.work_off("merlin").returncode == 0
    assert home.run("wait", "last").returncode == 0


def home_is_draining(home: Home) -> str:
    with home.server() as client:
        return "".join(client.hget(f"{{mrun}}:2:worker:{name}", "is_draining") or "" for name in home.worker_names())


@pytest.mark.slow
def test_second_interrupt_ends_running_samples_and_hands_them_back(home: Home) -> None:
    home.write("samples.csv", "1\n2\n3\n")
    home.write("spec.yaml", GATED)
    process = home.start("run", "spec.yaml", "--slots", "2")
    wait_until(lambda: len(started(home)) == 2, "two samples run")
    process.send_signal(signal.SIGINT)
    wait_until(lambda: "1" in [home_is_draining(home)], "the worker drains")
    process.send_signal(signal.SIGINT)
    done = ended(process, 15)
    assert done.returncode == 130
    assert "ending what runs" in done.stderr
    assert home.workers_and_steps() == {}
    (status,) = home.json("status")
    assert (status["steps"][0]["ready"], status["steps"][0]["running"]) == (3, 0)


def test_nothing_outlives_a_run_that_was_killed(home: Home) -> None:
    # Given a run with a running sample
    home.write("samples.csv", "1\n2\n")
    home.write("spec.yaml", GATED)
    process = home.start("run", "spec.yaml", "--slots", "1")
    wait_until(lambda: started(home), "a sample runs")
    # When the command is killed, which it can't tell anybody
    process.kill()
    ended(process)
    (home.work / "gate").touch()
    # I expect its worker to finish what runs, and to go
    wait_until(lambda: not home.workers_and_steps(), "worker and samples are gone", 20)
    (status,) = home.json("status")
    assert (status["steps"][0]["finished"], status["steps"][0]["ready"]) == (1, 1)


@pytest.mark.slow
def test_run_whose_worker_is_stopped_leaves_the_study_queued(home: Home) -> None:
    home.write("samples.csv", "1\n2\n")
    home.write("spec.yaml", GATED)
    process = home.start("run", "spec.yaml", "--slots", "1")
    wait_until(lambda: started(home), "a sample runs")
    home.ok("stop")
    (home.work / "gate").touch()
    done = ended(process)
    assert done.returncode == 143
    assert "the worker was asked to stop; the study stays queued" in done.stderr


@pytest.mark.slow
def test_run_whose_worker_is_killed_says_so_and_leaves_the_study_queued(home: Home) -> None:
    home.write("samples.csv", "1\n2\n")
    home.write("spec.yaml", GATED)
    process = home.start("run", "spec.yaml", "--slots", "1")
    place = wait_until(lambda: started(home), "a sample runs")[0]
    script = int(wait_until(place.read_text, "it says its number"))
    # When the engine, its parent, is killed
    os.kill(int(Path(f"/proc/{script}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    done = ended(process)
    assert done.returncode == 143
    assert "the worker was killed by SIGKILL; the study stays queued" in done.stderr


@pytest.mark.slow
def test_run_that_is_cancelled_ends_with_7(home: Home) -> None:
    home.write("samples.csv", "1\n2\n")
    home.write("spec.yaml", GATED)
    process = home.start("run", "spec.yaml", "--slots", "1")
    wait_until(lambda: started(home), "a sample runs")
    home.ok("cancel", "last")
    done = ended(process, 15)
    assert done.returncode == 7
    assert "cancelled" in done.stdout.splitlines()[1]


@pytest.mark.slow
def test_script_that_cannot_be_started_is_told_and_costs_no_attempt(home: Home) -> None:
    home.write(
        "spec.yaml",
        """
        description: {name: shell, description: x}
        env: {variables: {OUTPUT_PATH: ./studies}}
        study:
          - {name: sim, description: x, run: {cmd: echo, shell: /no/such/shell}}
        """,
    )
    done = home.run("run", "spec.yaml")
    assert done.returncode == 6
    assert "/no/such/shell" in done.stderr
    assert "could not be started" in done.stderr
    assert "Traceback" not in done.stderr
    assert "{" not in done.stderr
    (status,) = home.json("status")
    assert (status["steps"][0]["ready"], status["steps"][0]["failed"]) == (1, 0)


@pytest.mark.parametrize("kind", ["run", "queue"])
def test_interrupted_generate_queues_nothing(home: Home, kind: str) -> None:
    home.write(
        "spec.yaml",
        """
        description: {name: slow, description: x}
        env: {variables: {OUTPUT_PATH: ./studies}}
        study:
          - {name: sim, description: x, run: {cmd: echo $(X)}}
        merlin:
          samples: {file: none.csv, column_labels: [X], generate: {cmd: "touch $(SPECROOT)/began; exec sleep 1000"}}
        """,
    )
    process = home.start(kind, "spec.yaml", process_group=0)
    wait_until(lambda: (home.work / "began").exists(), "generate runs")
    os.killpg(process.pid, signal.SIGINT)
    done = ended(process, 10)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert home.json("status") == []
    assert home.workers_and_steps() == {}
