"""What no worker can run is said, with words that start one that can, as they stand."""

from __future__ import annotations

import os
import re
import shlex

import pytest

from tests.cli.homes import Home, ended
from tests.conftest import wait_until

#: More than this machine has.
CPUS, GPUS = len(os.sched_getaffinity(0)) + 1, 900


def queue_demanding(home: Home, name: str) -> str:
    """A study of three steps that need more and more, on a queue of its name."""
    runs = {
        "small": "",
        "wide": f", procs: {CPUS}",
        "train": f", gpus: {GPUS}, resources: {{licenses/foo: 2}}",
    }
    steps = "\n".join(
        f"  - {{name: {step}, description: d, run: {{cmd: 'true', task_queue: {name}{needs}}}}}"
        for step, needs in runs.items()
    )
    spec = f"description: {{name: {name}, description: d}}\nenv: {{variables: {{OUTPUT_PATH: out}}}}\nstudy:\n{steps}\n"
    return home.queue(home.write(f"{name}.yaml", spec))


def hinted(text: str) -> list[str]:
    """The words behind `mrun` of the only command that is hinted at."""
    (found,) = re.findall(r"\bmrun (work --queues .*)", text)
    return shlex.split(found)


@pytest.mark.slow
def test_a_queue_without_a_worker_is_told_with_what_its_worker_must_have(home: Home) -> None:
    # Given samples that need more than a worker would find here, and no worker
    study = queue_demanding(home, "many")
    said = {home.run(*words).stderr for words in (("inspect",), ("wait", study, "--timeout", "0.1"))}
    words = [hinted(text) for text in said]
    # Then each says the same, and what is enough for all steps
    assert words[0][:3] == ["work", "--queues", "many"]
    assert words[0][3:] == ["--resources", f"cpus={CPUS},gpus={GPUS},licenses/foo=2"]
    assert all(one == words[0] for one in words)
    # And as it was typed it works
    done = home.run(*words[0], "--exit-when-done")
    assert done.returncode == 0, done.stderr
    assert home.json("status", study)[0]["state"] == "finished"


def test_a_queue_whose_samples_fit_here_is_told_without_resources(home: Home) -> None:
    home.write("s.yaml", "description: {name: s, description: d}\nstudy: [{name: a, description: d, run: {cmd: x}}]\n")
    home.queue("s.yaml")
    assert hinted(home.run("inspect").stderr) == ["work", "--queues", "merlin"]


@pytest.mark.slow
def test_a_setting_of_resources_counts_for_the_worker_that_is_hinted_at(home: Home) -> None:
    queue_demanding(home, "many")
    enough = {"MRUN_RESOURCES": f"cpus={CPUS},gpus={GPUS},licenses/foo=2"}
    assert hinted(home.run("inspect", environ=enough).stderr) == ["work", "--queues", "many"]
    # The option stands for all of the setting
    less = {"MRUN_RESOURCES": f"cpus={CPUS},licenses/foo=2"}
    assert hinted(home.run("inspect", environ=less).stderr)[-1] == f"cpus={CPUS},gpus={GPUS},licenses/foo=2"


@pytest.mark.slow
def test_status_says_what_fits_no_living_worker(home: Home) -> None:
    # Given a worker that has CPUs, and licenses, and no GPU
    study = queue_demanding(home, "many")
    assert "no worker" not in home.run("status").stderr
    worker = home.start(
        "work", "--queues", "many", "--resources", f"cpus={CPUS},licenses/foo=2", "--log-level", "error"
    )
    wait_until(lambda: home.counts(study, 1).get("finished"), "what fits has run")
    # Then a line below the table, and below a study, says what waits and for what
    for words in (("status",), ("status", study)):
        done = home.run(*words)
        assert f"no worker on queue 'many' has what 'train' of {study} needs, gpus={GPUS}: " in done.stderr
    # Licenses, too: the worker that is hinted at would not have them either
    assert hinted(done.stderr)[-1] == f"gpus={GPUS},licenses/foo=2"
    assert "no worker" not in home.run("status", "--json").stderr
    home.ok("stop")
    assert ended(worker).returncode == 0
    assert home.run(*hinted(done.stderr), "--exit-when-done").returncode == 0
    assert home.json("status", study)[0]["state"] == "finished"
