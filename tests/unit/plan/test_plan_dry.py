"""Scripts of a dry run: which are written, and that they are those that would run."""

from __future__ import annotations

import os

import msgspec
import numpy as np
import pytest

from mrun.engine.errors import WorkspaceError
from mrun.engine.steps.dry import write_scripts
from mrun.engine.table.samples import open_samples

from .specs import make_spec, parameter, plan, step


def dry(tmp_path, spec, count: int = 0, most: int = 1000):
    """A dry run in the test's own directory; the paths that it wrote, and what it says."""
    made = plan(spec, count)
    samples = made.samples
    if samples:
        np.save(tmp_path / "s.npy", np.arange(count))
        samples = open_samples(tmp_path / "s.npy", samples.columns, tmp_path)
    workspace = tmp_path / "ws"
    told = write_scripts(msgspec.structs.replace(made, workspace=str(workspace), samples=samples), most)
    return sorted(str(path.relative_to(workspace)) for path in workspace.rglob("*.sh")), told


def test_every_script_has_its_place_and_can_be_run(tmp_path):
    spec = make_spec(
        step("sim", "echo $(X) $(P)", restart="again $(X)"),
        step("sum", "true", ["sim_*"], batch_type="slurm"),
        parameters=(parameter("P", ["a", "b"]),),
        columns=["X"],
    )
    paths, told = dry(tmp_path, spec, 3)
    each = [f"sim/P.{p}/0{n}/sim_P.{p}{end}" for p in "ab" for n in range(3) for end in (".restart.sh", ".sh")]
    assert paths == [*each, "sum/sum.slurm.sh"]
    script = tmp_path / "ws/sim/P.b/02/sim_P.b.sh"
    assert script.read_text() == "#!/bin/bash\n\necho 2 b\n"
    assert os.access(script, os.X_OK)
    assert (told.name, told.workspace, told.written, told.left_out) == ("study", str(tmp_path / "ws"), 7, 0)


@pytest.mark.parametrize(("most", "written"), [(1, 3), (4, 9), (5, 11), (100, 21)])
def test_only_the_first_instances_of_each_step_are_written(tmp_path, most, written):
    spec = make_spec(
        step("a", "$(X) $(P)"), step("b", "$(X)"), step("c"), parameters=(parameter("P", range(3)),), columns=["X"]
    )
    paths, told = dry(tmp_path, spec, 5, most)
    assert (len(paths), told.written, told.left_out) == (written, written, 21 - written)


def test_a_workspace_that_can_not_be_written_is_an_error(tmp_path):
    (tmp_path / "ws").write_text("")
    with pytest.raises(WorkspaceError, match="can't be written"):
        dry(tmp_path, make_spec())
