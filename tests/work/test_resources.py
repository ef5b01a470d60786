"""Scripts never share a CPU or a GPU, large ones get their turn, and what a worker has not is said.

What the scripts wrote of themselves is what counts: when they began and ended, and which CPUs and GPUs they were given.
"""

from __future__ import annotations

import json
import os
import subprocess
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest

from tests.conftest import wait_until
from tests.lab import BIN, Lab

#: The last of the CPUs that the tests may use: any worker that is not told of it would take the first.
CPU = max(os.sched_getaffinity(0))
REPORT = """
    B=$EPOCHREALTIME; sleep {seconds}
    GPUS="${{CUDA_VISIBLE_DEVICES--}}#${{ROCR_VISIBLE_DEVICES--}}"
    echo "{name} $B $EPOCHREALTIME ${{MRUN_CPUS:--}} $GPUS" >> $LEDGER/held
"""
HEAD = "description: {name: resources, description: steps of different sizes}\n"
TAIL = "\nmerlin: {samples: {file: samples.npy, column_labels: [X]}}\n"


class Held(NamedTuple):
    """What a script told of itself."""

    step: str
    began: float
    ended: float
    cpus: tuple[str, ...]
    gpus: tuple[str, ...]


def step(name: str, keys: str = "", seconds: float = 0.1) -> str:
    """A step of samples that hold what they were given for a while."""
    cmd = REPORT.format(name=name, seconds=seconds).strip().replace("\n    ", "; ").replace("'", "")
    return f"  - {{name: {name}, description: d, run: {{{keys + ', ' if keys else ''}cmd: '{cmd} # $(X)'}}}}\n"


def queue(lab: Lab, samples: int, *steps: str, name: str = "spec") -> str:
    np.save(lab.directory / "samples.npy", np.arange(float(samples)))
    path = lab.directory / f"{name}.yaml"
    path.write_text(f"{HEAD}study:\n{''.join(steps)}{TAIL}")
    return lab.queue(path)


def told(lab: Lab) -> list[Held]:
    """All that the scripts told."""
    lines = [line.split() for line in (lab.ledger_dir / "held").read_text().splitlines()]
    found = []
    for name, began, ended, cpus, gpus in lines:
        # Programs for NVIDIA's GPUs and for AMD's are told the same
        first, second = gpus.split("#")
        assert first == second
        own = tuple(one for one in first.split(",") if one not in ("", "-"))
        found.append(Held(name, float(began), float(ended), tuple(cpus.split(",")), own))
    return found


def overlaps(held: list[Held]) -> list[tuple[str, Held, Held]]:
    """Scripts that had a CPU or a GPU at a time."""
    by_place: dict[str, list[Held]] = {}
    for one in sorted(held, key=lambda one: one.began):
        for place in (*(f"cpu {cpu}" for cpu in one.cpus), *(f"gpu {gpu}" for gpu in one.gpus)):
            by_place.setdefault(place, []).append(one)
    return [
        (place, *pair) for place, them in by_place.items() for pair in pairwise(them) if pair[1].began < pair[0].ended
    ]


def logged(lab: Lab, event: str) -> list[dict[str, object]]:
    """What the workers logged under that name."""
    lines = "\n".join(path.read_text() for path in sorted(lab.directory.glob("worker-*.log"))).splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return [entry for entry in entries if entry.get("event") == event]


def test_a_mixed_bag_never_has_more_than_the_worker(lab: Lab) -> None:
    # Given steps of one, two, four and all CPUs, and of a GPU, on a worker that is told of eight CPUs and two GPUs
    sizes = {"one": 1, "two": 2, "four": 4, "all": 8, "gpu": 1}
    study = queue(
        lab, 10, step("one"), step("two", "procs: 2"), step("four", "procs: 2, cores per task: 2"),
        step("all", "exclusive: yes"), step("gpu", "gpus: 1"),
    )  # fmt: skip
    lab.work("--queues", "merlin", "--resources", "cpus=8,gpus=2", "--exit-when-done")
    status = lab.wait_for_end(study)
    # Then each has what it asked for, for itself
    held = told(lab)
    assert len(held) == 50, lab.logs()
    assert status["state"] == "finished"
    assert overlaps(held) == []
    assert {(one.step, len(one.cpus)) for one in held} == set(sizes.items())
    assert {(one.step, len(one.gpus)) for one in held} == {
        ("one", 0), ("two", 0), ("four", 0), ("all", 2), ("gpu", 1),
    }  # fmt: skip
    assert {place for one in held for place in one.cpus} == {str(number) for number in range(8)}


@pytest.mark.slow
def test_large_samples_are_not_starved_by_a_stream_of_small_ones(lab: Lab) -> None:
    # Given more small samples than a worker of four CPUs can run in the time of the test
    small = queue(lab, 4000, step("small", seconds=0.1))
    lab.work("--queues", "merlin", "--resources", "cpus=4")
    wait_until(lambda: lab.study(small)["by_step"]["small"]["finished"] > 8, lambda: f"the stream flows: {lab.logs()}")
    # When samples come of which each needs all of them
    large = queue(lab, 3, step("large", "procs: 4"), name="large")
    status = lab.wait_for_end(large, 40)
    # I expect them to have their turn, while the stream flows on
    assert status["by_step"]["large"]["finished"] == 3, lab.logs()
    left = lab.study(small)["by_step"]["small"]
    assert left["ready"] > 0
    assert overlaps(told(lab)) == []


@pytest.mark.parametrize("way", ["", "warm: yes, shell: /bin/bash, ", "warm: yes, shell: /bin/sh, "])
def test_scripts_are_bound_to_the_cpus_that_they_are_told(lab: Lab, way: str) -> None:
    # A program of its own: a warm script may not look for itself in /proc
    (lab.directory / "allowed").write_text("grep Cpus_allowed_list /proc/self/status | cut -f 2")
    run = f"{{{way}cmd: 'echo $MRUN_CPUS $(X) $(sh {lab.directory}/allowed) >> $LEDGER/cpus'}}"
    study = queue(lab, 4, f"  - {{name: a, description: d, run: {run}}}\n")
    lab.work("--queues", "merlin", "--resources", f"cpus={CPU}-{CPU}", "--exit-when-done")
    assert lab.wait_for_end(study)["state"] == "finished"
    lines = [line.split() for line in (lab.ledger_dir / "cpus").read_text().splitlines()]
    assert sorted(lines) == [[str(CPU), f"{number}.0", str(CPU)] for number in range(4)]


@pytest.mark.slow
def test_a_worker_that_was_told_nothing_binds_nothing_and_hides_no_gpu(lab: Lab) -> None:
    allowed = "$(grep Cpus_allowed_list /proc/self/status | cut -f 2)"
    cmd = f"echo $(X) {allowed} ${{MRUN_CPUS-none}} ${{CUDA_VISIBLE_DEVICES-none}} >> $LEDGER/cpus"
    study = queue(lab, 1, f"  - {{name: a, description: d, run: {{cmd: '{cmd}'}}}}\n")
    lab.environment.pop("CUDA_VISIBLE_DEVICES", None)
    lab.work("--queues", "merlin", "--exit-when-done")
    assert lab.wait_for_end(study)["state"] == "finished"
    ours = subprocess.run(
        ["grep", "Cpus_allowed_list", "/proc/self/status"], capture_output=True, text=True, check=True
    )
    assert (lab.ledger_dir / "cpus").read_text().split() == ["0.0", ours.stdout.split()[1], "none", "none"]


def test_more_cpus_than_a_worker_finds_are_all_of_them(lab: Lab) -> None:
    # Given a spec that was written for a larger machine
    study = queue(lab, 3, step("sim", "procs: 9000"))
    lab.work("--queues", "merlin", "--slots", 3, "--exit-when-done")
    # I expect it to run, one sample after the other, and to be told so once
    assert lab.wait_for_end(study)["state"] == "finished"
    ordered = sorted(told(lab), key=lambda one: one.began)
    assert all(sooner.ended <= later.began for sooner, later in pairwise(ordered))
    (line,) = logged(lab, "step_squeezed")
    assert (line["step"], line["asks_for_cpus"], line["gets_cpus"]) == ("sim", 9000, 3)


def test_what_a_worker_has_not_is_said_and_runs_where_it_is(lab: Lab) -> None:
    # Given a worker that was told what it has, and steps that need more
    study = queue(
        lab,
        2,
        step("wide", "procs: 4"),
        step("licensed", "resources: {licenses/foo: 2}"),
        step("fits", "procs: 2"),
        step("both", "procs: 2, resources: {licenses/foo: 1}"),
    )
    lab.work("--queues", "merlin", "--resources", "cpus=2")
    wait_until(lambda: lab.study(study)["by_step"]["fits"]["finished"] == 2, lambda: f"what fits is run: {lab.logs()}")
    wait_until(lambda: len(logged(lab, "samples_unfit")) == 3, lambda: f"what does not fit is told: {lab.logs()}")
    assert {(tuple(line["steps"]), line["why"], line["hint"]) for line in logged(lab, "samples_unfit")} == {  # type: ignore[arg-type]  # a list of names
        (
            ("wide",),
            "They need cpus=4; this worker has cpus=2.",
            "Another worker must run them: mrun work --queues merlin --resources cpus=4",
        ),
        (
            ("licensed",),
            "They need licenses/foo=2; this worker has licenses/foo=0.",
            "Another worker must run them: mrun work --queues merlin --resources licenses/foo=2",
        ),
        # All that they need, also what this worker has: it is to be typed as it stands
        (
            ("both",),
            "They need licenses/foo=1; this worker has licenses/foo=0.",
            "Another worker must run them: mrun work --queues merlin --resources cpus=2,licenses/foo=1",
        ),
    }
    # When somebody looks, or waits
    words = ("wait", study, "--timeout", "1")
    for command in (("inspect",), words):
        ended = subprocess.run(
            [BIN / "mrun", *command], env=lab.environment, capture_output=True, text=True, check=False
        )
        assert f"no worker on queue 'merlin' has what 'wide' of {study} needs, cpus=4: " in ended.stderr
    # Then a worker that has it runs it
    lab.work("--queues", "merlin", "--resources", "cpus=4,licenses/foo=2", "--exit-when-done")
    assert lab.wait_for_end(study)["state"] == "finished"


def test_resources_that_can_not_be_read_are_refused_with_an_example(lab: Lab) -> None:
    words = [str(BIN / "mrun"), "work", "--queues", "q", "--resources", "cpus=few"]
    ended = subprocess.run(words, env=lab.environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "The setting 'resources' is 'cpus=few' (option --resources)." in ended.stderr
    assert (
        "It must be written like cpus=32,gpus=4,licenses/foo=2; 'cpus=few' does not read NAME=NUMBER." in ended.stderr
    )
