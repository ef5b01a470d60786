"""Who is skipped, who runs all the same, and what stops a study: one row per rule, each a study of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.homes import Home

HEAD = "description: {{name: {name}, description: d}}\nenv: {{variables: {{OUTPUT_PATH: ./studies}}}}\n"
SAMPLES = "merlin: {samples: {file: four.csv, column_labels: [X]}}\n"
COMBINATIONS = "global.parameters: {A: {values: [0, 106], label: A.%%}}\n"


def step(name: str, cmd: str, depends: str = "", more: str = "") -> str:
    lines = [
        f"  - name: {name}",
        "    description: d",
        "    run:",
        "      task_queue: outcomes",
        "      retry_delay: 0",
    ]
    lines += [f"      depends: [{depends}]", *([f"      {more}"] if more else []), "      cmd: |", f"        {cmd}"]
    return "\n".join(lines) + "\n"


#: Two of four samples fail with this code.
HALF = "if [ $(X) -gt 1 ]; then exit %s; fi"

#: Steps and other blocks; the study's state; of each step how many samples finished, failed, were skipped, cancelled.
STUDIES: dict[str, tuple[str, str, str, dict[str, tuple[int, int, int, int]]]] = {
    "failures-go-on": (
        step("sim", HALF % 7) + step("next", "echo $(X)", "sim") + step("sum", "echo", "next"), SAMPLES,
        "finished", {"sim": (2, 2, 0, 0), "next": (4, 0, 0, 0), "sum": (1, 0, 0, 0)},
    ),
    "skip-sample-by-sample-and-never-the-funnel": (
        step("sim", HALF % 7, more="on_failure: skip") + step("next", "echo $(X)", "sim")
        + step("after", "echo $(X)", "next") + step("sum", "echo", "after")
        + step("star", "echo $(X)", "next_*"), SAMPLES,
        "finished", {"sim": (2, 2, 0, 0), "next": (2, 0, 2, 0), "after": (2, 0, 2, 0), "sum": (1, 0, 0, 0),
                     "star": (4, 0, 0, 0)},
    ),
    "skip-the-funnel-if-all-are-blocking": (
        step("sim", "exit $(MERLIN_RAISE_ERROR) # $(X)") + step("sum", "echo", "sim") + step("end", "echo", "sum_*"),
        SAMPLES, "finished", {"sim": (0, 4, 0, 0), "sum": (0, 0, 1, 0), "end": (0, 0, 1, 0)},
    ),
    "one-blocking-combination-of-one-sample-skips-what-waits-for-all": (
        step("codes", "exit $(A)") + step("same", "echo $(A)", "codes") + step("all", "echo", "codes_*"), COMBINATIONS,
        "finished", {"codes": (1, 1, 0, 0), "same": (1, 0, 1, 0), "all": (0, 0, 1, 0)},
    ),
    "abort": (
        step("sim", "exit 1", more="on_failure: abort") + step("next", "echo", "sim"), "",
        "failed", {"sim": (0, 1, 0, 0), "next": (0, 0, 0, 1)},
    ),
    "as-many-failures-as-max-fails": (
        step("sim", HALF % 1, more="max_fails: 50%") + step("next", "echo", "sim"), SAMPLES,
        "finished", {"sim": (2, 2, 0, 0), "next": (1, 0, 0, 0)},
    ),
    "retry-in-a-restart-script-goes-back-to-cmd": (
        step("sim", "if [ -e began ]; then echo cmd; else touch began; exit $(MERLIN_RESTART); fi",
             more="restart: echo restart; exit $(MERLIN_RETRY)"), "",
        "finished", {"sim": (1, 0, 0, 0)},
    ),
    "no-set-e": (step("sim", "false; true"), "", "finished", {"sim": (1, 0, 0, 0)}),
    # b2 opens the gate for which a1 waits. Merlin would wait for everything of a1's depth before b2.
    "nothing-waits-for-its-depth": (
        step("a1", "until [ -e $(MERLIN_WORKSPACE)/gate ]; do sleep 0.05; done") + step("a2", "echo", "a1")
        + step("b1", "echo") + step("b2", "touch $(MERLIN_WORKSPACE)/gate", "b1"), "",
        "finished", {"a1": (1, 0, 0, 0), "a2": (1, 0, 0, 0), "b1": (1, 0, 0, 0), "b2": (1, 0, 0, 0)},
    ),
    # Careful: the star means all samples also where x has no parameters. Sample 0 looks for the marks of all four.
    "a-star-waits-for-all-samples": (
        step("sim", "[ $(X) = 3 ] && sleep 0.3; touch done")
        + step("star", "test $(X) = x -o $(ls $(sim.workspace)/$(MERLIN_GLOB_PATH)done | wc -l) = 4", "sim_*"), SAMPLES,
        "finished", {"sim": (4, 0, 0, 0), "star": (4, 0, 0, 0)},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def ended(shared_home: Home) -> dict[str, Any]:
    """All studies, run by one worker; their status by name."""
    shared_home.write("four.csv", "0\n1\n2\n3\n")
    for name, (steps, blocks, _, _) in STUDIES.items():
        (shared_home.work / f"{name}.yaml").write_text(HEAD.format(name=name) + f"study:\n{steps}{blocks}")
        shared_home.queue(f"{name}.yaml")
    assert shared_home.work_off("outcomes", "--slots", "4").returncode == 0
    return {study["name"]: study for study in shared_home.json("status", "all")}


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_samples_end_as_the_rule_says(ended: dict[str, Any], name: str) -> None:
    _, _, state, expected = STUDIES[name]
    found = {
        step["name"]: tuple(step[key] for key in ("finished", "failed", "skipped", "cancelled"))
        for step in ended[name]["steps"]
    }
    assert (ended[name]["state"], found) == (state, expected)


@pytest.mark.slow
def test_scripts_of_a_restart_run_in_turn(ended: dict[str, Any]) -> None:
    workspace = Path(ended["retry-in-a-restart-script-goes-back-to-cmd"]["workspace"])
    assert (workspace / "sim/sim.out").read_text() == "restart\ncmd\n"


@pytest.mark.slow
def test_skipped_samples_leave_no_directory_and_failed_ones_no_mark(ended: dict[str, Any]) -> None:
    workspace = Path(ended["skip-sample-by-sample-and-never-the-funnel"]["workspace"])
    assert sorted(path.name for path in (workspace / "next").iterdir()) == ["00", "01"]
    marks = sorted(path.parent.name for path in (workspace / "sim").rglob("MERLIN_FINISHED"))
    assert marks == ["00", "01"]
