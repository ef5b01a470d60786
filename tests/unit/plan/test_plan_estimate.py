"""What a study will cost on disk, against a count of what its paths are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrun.engine.errors import SpecError
from mrun.engine.studies.estimate import (
    CONVERTED_FILES,
    GENERATE_FILES,
    STUDY_DIRECTORIES,
    STUDY_FILES,
    estimate_study,
    sample_directories,
    table_at_hand,
)
from mrun.engine.table.paths import sample_path
from mrun.engine.table.samples import SamplesRequest

from .specs import make_spec, parameter, plan, step


def request(path="/nowhere.npy", columns=("X",), generate=None):
    return SamplesRequest((str(path),), columns, generate, "/bin/bash")


@given(st.integers(1, 3000), st.integers(2, 30))
def test_sample_directories_are_those_of_all_paths(count, level):
    made = set()
    for index in range(count):
        parts = [part for part in sample_path(index, count, level).split("/") if part]
        made |= {"/".join(parts[: end + 1]) for end in range(len(parts))}
    assert sample_directories(count, level) == len(made)


def test_a_hundred_million_samples_are_estimated_at_once():
    assert sample_directories(10**8, 25) == 10**8 + 4 * 10**6 + 160_000 + 6_400 + 256 + 11


def test_every_instance_has_its_files_and_every_node_its_directory():
    spec = make_spec(
        step("sim", "$(X) $(P)", task_queue="q_$(P)", restart="again"),
        step("all", "true", ["sim_*"]),
        parameters=(parameter("P", [1, 2]),),
        columns=["X"],
    )
    found = estimate_study(plan(spec, 30), request(), is_count_known=True)
    sim, funnel = found.steps
    assert (sim.nodes, sim.samples, sim.scripts, sim.queues) == (2, 30, 60, ("q_1", "q_2"))
    assert sim.files == 60 * 5
    # The step's, two nodes', and in each of them 30 samples below 2 levels' directories.
    assert sim.directories == 1 + 2 + 2 * (30 + 2)
    assert (funnel.nodes, funnel.samples, funnel.scripts, funnel.files, funnel.directories) == (1, 1, 1, 4, 1)
    assert found.scripts == 61
    assert found.files == 304 + STUDY_FILES
    assert found.directories == 68 + STUDY_DIRECTORIES
    assert found.inodes == found.files + found.directories
    assert (found.files_per_sample, found.directories_per_sample) == (0, 0)


def test_what_is_generated_is_unknown_and_told_per_sample():
    spec = make_spec(
        step("sim", "$(X) $(P)"), step("all", "true", ["sim_*"]), parameters=(parameter("P", [1, 2]),), columns=["X"]
    )
    found = estimate_study(plan(spec, 1), request(generate="make"), is_count_known=False)
    assert (found.scripts, found.files, found.directories, found.inodes) == (None, None, None, None)
    assert (found.steps[0].samples, found.steps[0].files, found.steps[0].directories) == (None, None, None)
    assert found.steps[1].files == 4
    assert found.known_files == 4 + STUDY_FILES + GENERATE_FILES
    assert found.known_directories == (1 + 2) + 1 + STUDY_DIRECTORIES
    assert (found.files_per_sample, found.directories_per_sample) == (8, 2)


def test_generated_samples_that_no_step_uses_leave_nothing_unknown():
    found = estimate_study(plan(make_spec(step("s"), columns=["X"])), request(generate="make"), is_count_known=False)
    assert found.files == 4 + STUDY_FILES + GENERATE_FILES


def test_text_tables_are_converted(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("1,2\n3,4\n# no\n5,6\n")
    asked = request(path, ("X", "Y"))
    assert table_at_hand(asked).count == 3
    spec = make_spec(step("s", "$(X)"), columns=["X", "Y"])
    found = estimate_study(plan(spec, 3), asked, is_count_known=True)
    assert found.files == 3 * 4 + STUDY_FILES + CONVERTED_FILES
    assert sorted(tmp_path.iterdir()) == [path]


def test_table_at_hand(tmp_path):
    path = tmp_path / "table.npy"
    assert table_at_hand(request(path)) is None
    np.save(path, np.zeros((7, 1)))
    assert table_at_hand(request(path)).count == 7
    with pytest.raises(SpecError, match="1 columns, and column_labels names 2"):
        table_at_hand(request(path, ("X", "Y")))
