"""A spec with many mistakes tells all of them at once, each at its place: none hides another, none is told twice.

Every mistake is one line of a good spec written in another way; `§` stands where the problem is expected.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mrun.engine.errors import Problem, SpecError
from mrun.engine.studies.enqueue import Order, check

GOOD = """\
description:
  name: good study
  description: Nothing is wrong with it.
env:
  variables:
    N: 3
    PLACE: $(SPECROOT)/x
    UNUSED: u
    LOOP: a
    OTHER: b
  labels:
    TAG: run-$(A.label)
  sources: [setup.sh]
  dependencies:
    paths:
      - {name: SELF, path: spec.yaml}
    git:
      - {name: CODE, path: ., url: nowhere}
batch:
  type: local
  shell: /bin/bash
  walltime: 1:00:00
  nodes: 2
  bank: b
user:
  shared: &shared
    max_retries: 3
study:
  - name: mesh
    description: The first step.
    run:
      cmd: |
        echo $(A) and
        echo $(N) $(TAG)
      task_queue: meshes
      walltime: 10:00
  - name: sim
    description: The second step.
    run:
      <<: *shared
      cmd: echo $(X) $(B)
      restart: echo $(Y)
      depends: [mesh]
      retry_delay: 2
      nodes: 1
      procs: 4
      on_failure: skip
      max_fails: 5%
      chunk: auto
      mode: inside
      exclusive: no
      gpus per task: 1
  - name: learn
    description: The third step.
    run:
      cmd: $(LAUNCHER)[2p] learn $(C)
      procs: 2
      shell: /bin/sh
      depends: [sim_*]
      batch:
        type: slurm
      max_losses: 2
  - name: extra
    description: Nobody waits for it.
    run: {cmd: 'true'}
  - {name: last one, description: In one line., run: {cmd: 'echo $(MERLIN_INFO)', depends: [learn]}}
global.parameters:
  A:
    values: [1, 2]
    label: A.%%
  B:
    values: [x, y]
    label: [low, high]
  C:
    values: [c, d]
    label: C.%%
  D:
    values: [e, f]
    label: D.%%
merlin:
  resources:
    task_server: celery
    overlap: no
    workers:
      simworkers:
        args: -c 2
        steps: [sim]
        machines: [node]
      others:
        steps: [mesh, learn]
        nodes: 1
  samples:
    file: samples.csv
    column_labels: [X, Y, W]
    level_max_dirs: 25
    files: full
"""

#: The line that is changed, what stands there then, and what is said. A line is changed by one mistake only, but for
#: those of one group: they can't be made together.
MISTAKES: dict[str, tuple[str, str, str]] = {
    "study name": ("  name: good study", "  name: §good/study", "holds '/'"),
    "empty description": ("  description: Nothing is wrong with it.", "  §description: ''", "is empty"),
    "unknown variable": ("    PLACE: $(SPECROOT)/x", "    PLACE: §$(SPECROT)/x", "'$(SPECROT)' is not a known name."),
    "reserved variable": ("    UNUSED: u", "    §MERLIN_INFO: u", "'MERLIN_INFO' is a name that mrun sets"),
    "circle of variables": ("    LOOP: a", "    LOOP: 1 §$(LOOP)", "in a circle: LOOP → LOOP."),
    "empty variable": ("    OTHER: b", "    §OTHER:", "'OTHER' has no value"),
    "unknown name in a label": ("    TAG: run-$(A.label)", "    TAG: run-§$(AA.label)", "'$(AA.label)' is not a known"),
    "sources as text": ("  sources: [setup.sh]", "  sources: §setup.sh", "must be a list"),
    "missing path": ("      - {name: SELF, path: spec.yaml}", "      - {name: SELF, path: §no.yaml}", "is missing"),
    "two references": (
        "      - {name: CODE, path: ., url: nowhere}",
        "      - {name: CODE, path: ., url: nowhere, tag: a, hash: §b}",
        "has tag and hash",
    ),
    "batch type": ("  type: local", "  type: §slrum", "'slrum' is no batch type"),
    "key of batch": ("  shell: /bin/bash", "  §shel: /bin/bash", "'shel' is no key of the block 'batch'."),
    "batch walltime": ("  walltime: 1:00:00", "  walltime: §soon", "must be a walltime, and 'soon'"),
    "batch nodes": ("  nodes: 2", "  nodes: §none", "or 'all', and 'none' is not"),
    "token in batch": ("  bank: b", "  bank: §$(BANK)", "'$(BANK)' is not a known name."),
    "merged mistake": ("    max_retries: 3", "    max_retries: §-3", "'max_retries' of the run of step 'sim'"),
    "token in a block text": ("        echo $(A) and", "        echo $(A) and §$(AB)", "'$(AB)' is not a known name."),
    "queue": ("      task_queue: meshes", "      §taks_queue: meshes", "'taks_queue' is no key of the run of step"),
    "step walltime": ("      walltime: 10:00", "      walltime: §10 minutes", "must be a walltime"),
    "unknown token": ("      cmd: echo $(X) $(B)", "      cmd: echo $(X) $(B) §$(Z)", "'$(Z)' is not a known name."),
    "unknown workspace": (
        "      restart: echo $(Y)",
        "      restart: echo $(Y) §$(mehs.workspace)",
        "is not a known name",
    ),
    "unknown dependency": ("      depends: [mesh]", "      depends: [§mehs]", "depends on 'mehs', which is no step."),
    "delay": ("      retry_delay: 2", "      retry_delay: §-2", "at least 0, and '-2' is not"),
    "step nodes": ("      nodes: 1", "      nodes: §0", "at least 1, and '0' is not"),
    "step procs": ("      procs: 4", "      procs: §[4]", "must be a single text, not a list"),
    "choice": ("      on_failure: skip", "      on_failure: §skp", "must be one of continue, skip, abort"),
    "percentage": ("      max_fails: 5%", "      max_fails: §105%", "must be a number of samples or a percentage"),
    "chunk": ("      chunk: auto", "      chunk: §0", "must be auto or a whole number"),
    "mode": ("      mode: inside", "      mode: §outside", "must be one of inside, step, job"),
    "flag": ("      exclusive: no", "      exclusive: §never", "must be yes or no"),
    "key with blanks": ("      gpus per task: 1", "      §gpus per tasks: 1", "'gpus per tasks' is no key"),
    "same step twice": ("  - name: extra", "  - name: §mesh", "The step name 'mesh' stands twice"),
    "too many procs": (
        "      cmd: $(LAUNCHER)[2p] learn $(C)",
        "      cmd: §$(LAUNCHER)[3p] learn $(C)",
        "more nodes or procs",
    ),
    "unknown funnel": ("      depends: [sim_*]", "      depends: [§smi_*]", "'smi_*', which is no step"),
    "key of a step's batch": ("      batch:", "      §bacth:", "'bacth' is no key of the run of step"),
    "type of a step": ("        type: slurm", "        type: §slurmm", "'slurmm' is no batch type"),
    "losses": ("      max_losses: 2", "      max_losses: §few", "at least 0, and 'few' is not"),
    "first in one line": (
        "  - {name: last one, description: In one line., run: {cmd: 'echo $(MERLIN_INFO)', depends: [learn]}}",
        "  - {name: last one, description: In one line., run: {cmd: 'echo §$(MERLIN_INF)', depends: [learn]}}",
        "'$(MERLIN_INF)' is not a known name.",
    ),
    "key of a parameter": ("    values: [1, 2]", "    §vales: [1, 2]", "'vales' is no key of parameter 'A'."),
    "label": ("    label: A.%%", "    label: §[A]", "has 2 values and 1 label"),
    "values that share a directory": ("    values: [c, d]", "    values: [a b, §a_b]", "would share the directory"),
    "uneven rows": ("  D:", "  §D:\n    values: [e]\n    label: D.%%\n  E:", "has 1 value, and 'A' has 2"),
    "overlap": ("    overlap: no", "    overlap: §perhaps", "must be yes or no"),
    "number of processes": ("        args: -c 2", "        args: §-c two", "must be a number of processes"),
    "unknown step of a worker": ("        steps: [sim]", "        steps: [§smi]", "which is no step"),
    "machines": ("        machines: [node]", "        machines: §node", "must be a list"),
    "worker's nodes": ("        nodes: 1", "        nodes: §many", "at least 1 or 'all'"),
    "no sample file": ("    file: samples.csv", "    file: §none.csv", "There is no sample file"),
    "reserved column": (
        "    column_labels: [X, Y, W]",
        "    column_labels: [X, Y, §VLAUNCHER]",
        "'VLAUNCHER' is a name",
    ),
    "levels": ("    level_max_dirs: 25", "    level_max_dirs: §1", "at least 2, and '1' is not"),
    "files": ("    files: full", "    files: §fat", "must be one of full, lean, packed"),
}

#: What is proposed, for slips that have a near name.
NEAREST = {
    "unknown variable": "SPECROOT",
    "unknown name in a label": "A.label",
    "batch type": "slurm",
    "key of batch": "shell",
    "queue": "task_queue",
    "unknown workspace": "mesh.workspace",
    "unknown dependency": "mesh",
    "choice": "skip",
    "mode": "inside",
    "key with blanks": "gpus per task",
    "unknown funnel": "sim",
    "key of a step's batch": "batch",
    "type of a step": "slurm",
    "first in one line": "MERLIN_INFO",
    "key of a parameter": "values",
    "unknown step of a worker": "sim",
}

#: Fifteen tens by hand, from different blocks; hypothesis finds others.
NAMES = list(MISTAKES)
TENS = [NAMES[begin::5][:10] for begin in range(5)] + [NAMES[begin : begin + 10] for begin in range(0, 41, 4)]


def with_mistakes(names: list[str]) -> tuple[str, list[tuple[int, int, str]]]:
    """The spec with these mistakes, and where and what is expected, in file order."""
    lines = GOOD.split("\n")
    for name in names:
        old, new, _ = MISTAKES[name]
        assert lines.count(old) == 1, f"one line of the good spec is {old!r}"
        lines[lines.index(old)] = new.replace("§", f"§{name}§")
    expected = []
    text = "\n".join(lines)
    while (mark := re.search("§([^§]*)§", text)) is not None:
        line = text.count("\n", 0, mark.start()) + 1
        expected.append((line, mark.start() - text.rfind("\n", 0, mark.start()), MISTAKES[mark.group(1)][2]))
        text = text[: mark.start()] + text[mark.end() :]
    return text, expected


@pytest.fixture
def area(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples.csv").write_text("1,2,3\n4,5,6\n")
    return tmp_path


def problems_of(area, text: str) -> tuple[Problem, ...]:
    (area / "spec.yaml").write_text(text)
    try:
        check(Order("spec.yaml"), {"PATH": "/usr/bin"}, str(area))
    except SpecError as error:
        return error.problems
    return ()


def assert_all_are_told(area, names: list[str]) -> None:
    text, expected = with_mistakes(names)
    problems = problems_of(area, text)
    assert [(one.line, one.column) for one in problems] == [place[:2] for place in expected], problems
    assert all(says in one.message for one, (_, _, says) in zip(problems, expected, strict=True)), problems
    assert {one.path for one in problems} == {"spec.yaml"}


def test_the_spec_without_mistakes_is_good(area):
    assert problems_of(area, GOOD) == ()


@pytest.mark.parametrize("name", MISTAKES)
def test_one_mistake_is_one_problem_at_its_place(area, name):
    assert_all_are_told(area, [name])


@pytest.mark.parametrize(("name", "nearest"), NEAREST.items())
def test_a_slip_is_told_with_the_nearest_name(area, name, nearest):
    (problem,) = problems_of(area, with_mistakes([name])[0])
    assert f"Did you mean '{nearest}'?" in problem.hint


@pytest.mark.parametrize("names", TENS, ids=lambda names: names[0])
def test_ten_mistakes_are_ten_problems_in_file_order(area, names):
    assert len(names) == 10
    assert_all_are_told(area, names)


def test_all_mistakes_at_once_are_all_told(area):
    assert_all_are_told(area, NAMES)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(NAMES), unique=True, min_size=2, max_size=15))
@example(["circle of variables", "unknown token", "no sample file", "number of processes"])
def test_any_mistakes_together_are_all_told(area, names):
    assert_all_are_told(area, names)


def test_a_slip_in_the_name_of_a_block_hides_nothing_below_it(area):
    text = (
        GOOD.replace("study:", "stduy:")
        .replace("depends: [mesh]", "depends: [mehs]")
        .replace("  variables:", "  vars:")
    )
    messages = [problem.message for problem in problems_of(area, text)]
    assert messages[-2:] == ["'stduy' is no key of the spec.", "Step 'sim' depends on 'mehs', which is no step."]


@pytest.mark.parametrize(("old", "new"), [("  variables:", "  variabels:"), ("      cmd: 'true'", "      cdm: 'true'")])
def test_what_a_slip_leaves_undefined_is_not_told_as_well(area, old, new):
    (problem,) = problems_of(area, GOOD.replace("run: {cmd: 'true'}", "run:\n      cmd: 'true'").replace(old, new))
    assert "is no key" in problem.message


@pytest.mark.parametrize("values", ["[1, ~]", "[1, [2]]", "3"])
def test_a_wrong_value_does_not_make_the_table_uneven_as_well(area, values):
    (problem,) = problems_of(area, GOOD.replace("    values: [e, f]", f"    values: {values}"))
    assert "'values' of parameter 'D'" in problem.message


def test_a_name_that_can_not_be_known_yet_hides_no_other_mistake(area):
    """The spec room leaves dependencies to the plan room where a step's name holds a token."""
    text = GOOD.replace("name: extra", "name: extra_$(N)").replace("depends: [mesh]", "depends: [mehs]")
    problems = problems_of(area, text.replace("procs: 4", "procs: few").replace("steps: [sim]", "steps: [smi]"))
    assert [problem.message.partition(" must")[0] for problem in problems] == [
        "Step 'sim' depends on 'mehs', which is no step.",
        "'procs' of the run of step 'sim'",
        "The worker 'simworkers' lists 'smi', which is no step.",
    ]
