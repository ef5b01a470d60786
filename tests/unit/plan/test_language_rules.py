"""The language, rule by rule: a small spec, from its YAML, and what the first instance of its step `s` is then.

Rows that are marked *careful* in the specification say in their names what Merlin does instead, or what would go wrong.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mrun.engine.errors import SpecError
from mrun.engine.language.names import RESERVED
from mrun.engine.plan.model import Plan
from mrun.engine.spec.names import RESERVED_NAMES
from mrun.engine.steps.render import NodeText
from mrun.engine.studies.enqueue import Checked, Order, check, prepare
from mrun.engine.table.reader import SampleReader

HEAD = "description: {name: n, description: d}\n"
TWO = "global.parameters:\n  A: {values: [1, 2], label: A.%%}\n  B: {values: [x, y], label: B.%%, name: bee}\n"
SAMPLES = "merlin:\n  samples:\n    file: t.csv\n    column_labels: [X, Y]\n    level_max_dirs: 2\n"
ENVIRONMENT = {"HOME": "/home/me", "SET": "is set", "PATH": "/nowhere"}


def steps(cmd: str, *lines: str, more: str = "") -> str:
    """The step `s`, and further steps in one line each."""
    run = "".join(f"      {line}\n" for line in lines)
    return f"study:\n  - name: s\n    description: d\n    run:\n      cmd: {cmd}\n{run}{more}"


def other(name: str, cmd: str, depends: str = "") -> str:
    return f"  - {{name: {name}, description: d, run: {{cmd: '{cmd}', depends: [{depends}]}}}}\n"


@pytest.fixture
def area(tmp_path, monkeypatch):
    """A directory with a table of three samples; it is the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("1,a\n2,b\n3,c\n")
    return tmp_path


def checked(area: Path, text: str, **order) -> Checked:
    (area / "spec.yaml").write_text(text if "description: {name" in text else HEAD + text)
    return check(Order("spec.yaml", **order), ENVIRONMENT, str(area))


def planned(area: Path, text: str, **order) -> Plan:
    return prepare(checked(area, text, **order))


def first_script(plan: Plan, is_restart: bool = False) -> str:
    """The script of the first sample of the first combination of `s`, with AREA and WS for what differs."""
    step = next(step for step in plan.steps if step.name == "s")
    values = SampleReader(plan.samples).values(0) if plan.samples is not None and step.uses_samples else ()
    text = NodeText(plan, step.first_node).script_text(0, values, is_restart=is_restart)
    workspace = plan.workspace
    return text.replace(workspace, "WS").replace(os.path.dirname(workspace), "AREA")


BODIES = {
    # tokens of the study
    "SPECROOT is the absolute directory of the spec": (steps("echo $(SPECROOT)"), "echo AREA"),
    "OUTPUT_PATH is absolute, also where the user's is not (careful)": (
        "env: {variables: {OUTPUT_PATH: ./out}}\n" + steps("echo $(OUTPUT_PATH)"),
        "echo AREA",
    ),
    "MERLIN_WORKSPACE and MERLIN_INFO": (steps("echo $(MERLIN_WORKSPACE) $(MERLIN_INFO)"), "echo WS WS/merlin_info"),
    "copies of the spec": (
        steps(
            "echo $(MERLIN_SPEC_ORIGINAL_TEMPLATE) $(MERLIN_SPEC_EXECUTED_RUN) $(MERLIN_SPEC_ARCHIVED_COPY)",
        ),
        "echo WS/merlin_info/spec.orig.yaml WS/merlin_info/spec.partial.yaml WS/merlin_info/spec.expanded.yaml",
    ),
    "return codes": (
        steps(
            "echo $(MERLIN_SUCCESS) $(MERLIN_RESTART) $(MERLIN_SOFT_FAIL) $(MERLIN_HARD_FAIL) $(MERLIN_RETRY)"
            " $(MERLIN_STOP_WORKERS) $(MERLIN_RAISE_ERROR)"
        ),
        "echo 0 100 101 102 104 105 106",
    ),
    "MRUN_X is MERLIN_X": (steps("echo $(MRUN_RETRY) $(MRUN_INFO)"), "echo 104 WS/merlin_info"),
    # variables
    "variables mention each other in any order": (
        "env: {variables: {A1: $(B1)x, B1: $(C1)y, C1: z}}\n" + steps("echo $(A1)"),
        "echo zyx",
    ),
    "a list is joined by blanks": ("env: {variables: {L: [a, 1, 'b c']}}\n" + steps("echo $(L)"), "echo a 1 b c"),
    "text stays as written: 010, 1_000, 1.50, yes": (
        "env: {variables: {V: 010, W: 1_000, U: 1.50, T: yes}}\n" + steps("echo $(V) $(W) $(U) $(T)"),
        "echo 010 1_000 1.50 yes",
    ),
    "another case of a variable is the variable": (
        "env: {variables: {Count: 3}}\n" + steps("echo $(COUNT) $(count)"),
        "echo 3 3",
    ),
    "the exact case comes first": (
        "env: {variables: {Count: 3, COUNT: 4}}\n" + steps("echo $(COUNT) $(Count)"),
        "echo 4 3",
    ),
    "$ENV and ~ in values, not in cmd": (
        "env: {variables: {V: $SET, W: ~/x, U: '${SET}!'}}\n" + steps("echo $(V) $(W) $(U) $SET ${SET} ~"),
        "echo is set /home/me/x is set! $SET ${SET} ~",
    ),
    "an environment variable that is not set stays": (
        "env: {variables: {V: $NOT_SET/x}}\n" + steps("echo $(V)"),
        "echo $NOT_SET/x",
    ),
    "a home of nobody stays": (
        "env: {variables: {V: ~no_such_user_here/x}}\n" + steps("echo $(V)"),
        "echo ~no_such_user_here/x",
    ),
    "labels are resolved for each combination": (
        "env: {labels: {T: run-$(A)-$(B.label)}}\n" + TWO + steps("echo $(T)"),
        "echo run-1-B.x",
    ),
    # the shell's own
    "escaped tokens are the shell's (careful: Merlin replaces them)": (
        "env: {variables: {V: 1}}\n" + steps("'echo \\$(V) \\\\$(V) \\$(NOPE)'"),
        "echo \\$(V) \\\\1 \\$(NOPE)",
    ),
    "small letters and blanks are the shell's": (
        steps("echo $(date) $(cat $(SPECROOT)/x) $(ls -l) `id` $((1 + 2))"),
        "echo $(date) $(cat AREA/x) $(ls -l) `id` $((1 + 2))",
    ),
    # parameters
    "value, label and name of a parameter": (
        TWO + steps("echo $(A) $(A.label) $(A.name) $(B.name)"),
        "echo 1 A.1 A bee",
    ),
    "numbers of values are normalised, for they name directories": (
        "global.parameters: {A: {values: [.75], label: A.%%}}\n" + steps("echo $(A) $(WORKSPACE)"),
        "echo 0.75 WS/s/A.0.75",
    ),
    "quoted values keep their text": (
        "global.parameters: {A: {values: ['.750'], label: A.%%}}\n" + steps("echo $(A) $(WORKSPACE)"),
        "echo .750 WS/s/A..750",
    ),
    "a list of labels": (
        "global.parameters: {A: {values: [1, 2], label: [one, two]}}\n" + steps("echo $(A.label) $(WORKSPACE)"),
        "echo one WS/s/one",
    ),
    "labels lose what no directory should have": (
        "global.parameters: {A: {values: ['a/b c:é'], label: 'A=%%'}}\n" + steps("echo $(A.label) $(WORKSPACE)"),
        "echo A=a/b c:é WS/s/Aab_c",
    ),
    # workspaces
    "workspace of another step: of this row": (
        TWO + steps("echo $(o.workspace)", "depends: [o]", more=other("o", "$(A)")),
        "echo WS/o/A.1",
    ),
    "of a starred step: without labels": (
        TWO + steps("echo $(o.workspace)", "depends: [o_*]", more=other("o", "$(A)")),
        "echo WS/o",
    ),
    "of a step without parameters": (
        TWO + steps("echo $(o.workspace) $(A)", "depends: [o]", more=other("o", "x")),
        "echo WS/o 1",
    ),
    "WORKSPACE is never the sample's directory": (
        TWO + SAMPLES + steps("echo $(X) $(WORKSPACE) $(A)"),
        "echo 1 WS/s/A.1 1",
    ),
    # samples
    "value, number, path and vector": (
        SAMPLES + steps("echo $(X) $(Y) $(MERLIN_SAMPLE_ID) $(MERLIN_SAMPLE_PATH) $(MERLIN_SAMPLE_VECTOR)"),
        "echo 1 a 0 0/0 1 a",
    ),
    "columns in any case": (SAMPLES + steps("echo $(x) $(y) $(merlin_sample_id)"), "echo 1 a 0"),
    "names, all paths and the pattern need no sample step": (
        SAMPLES + steps("echo $(MERLIN_SAMPLE_NAMES) $(MERLIN_PATHS_ALL) $(MERLIN_GLOB_PATH)"),
        "echo X Y 0/0 0/1 1/0 */*/",
    ),
    # launchers
    "local launches nothing (careful: Merlin leaves the token, and bash fails)": (steps("$(LAUNCHER) sim"), " sim"),
    "slurm": (
        "batch: {type: slurm}\n" + steps("$(LAUNCHER) sim", "nodes: 2", "procs: '8'", "walltime: 10:30:00"),
        "srun -N 2 -n 8 -t 10:30:00 sim",
    ),
    "a step's own type": (
        "batch: {type: slurm}\n" + steps("$(LAUNCHER) sim", "procs: 4", "batch: {type: flux}"),
        "flux run -n 4 sim",
    ),
}


@pytest.mark.parametrize(("text", "expected"), BODIES.values(), ids=BODIES.keys())
def test_the_script_is_what_the_rule_says(area, text, expected):
    options = {} if "OUTPUT_PATH: ./out" in text else {"output_path": str(area)}
    assert first_script(planned(area, text, **options)) == f"#!/bin/bash\n\n{expected}\n"


SCRIPTS = {
    "the shell of the batch block": ("batch: {shell: /bin/zsh}\n" + steps("echo"), "#!/bin/zsh\n\necho\n"),
    "the step's shell before it": (
        "batch: {shell: /bin/zsh}\n" + steps("echo", "shell: /usr/bin/env -S bash -l"),
        "#!/usr/bin/env -S bash -l\n\necho\n",
    ),
    "sources come first": (
        "env: {sources: [a.sh, $(SPECROOT)/b.sh]}\n" + steps("echo"),
        "#!/bin/bash\n\nsource a.sh\nsource AREA/b.sh\necho\n",
    ),
    "sources with sh's own word": (
        "env: {sources: [a.sh]}\n" + steps("echo", "shell: /bin/sh"),
        "#!/bin/sh\n\n. a.sh\necho\n",
    ),
    "no set -e is added, and no newline where there is one": (
        steps("|\n        false\n        true"),
        "#!/bin/bash\n\nfalse\ntrue\n",
    ),
}


@pytest.mark.parametrize(("text", "expected"), SCRIPTS.values(), ids=SCRIPTS.keys())
def test_the_whole_script_is_what_the_rule_says(area, text, expected):
    assert first_script(planned(area, text, output_path=str(area))) == expected


#: What is read: attributes of the step in the plan.
SETTINGS = {
    "max_retries is 30 unless said": (steps("x"), {"max_retries": 30, "retry_delay_s": 1.0, "max_losses": 3}),
    "numbers of YAML 1.1": (
        steps("x", "max_retries: 1_000", "max_losses: 0x10"),
        {"max_retries": 1000, "max_losses": 16},
    ),
    "quoted numbers": (steps("x", "max_retries: '2'", "retry_delay: '0.5'"), {"max_retries": 2, "retry_delay_s": 0.5}),
    "continue unless said": (
        steps("x"),
        {"on_failure": "continue", "chunk": None, "max_fails": None, "walltime_s": None},
    ),
    "skip": (steps("x", "on_failure: skip", "chunk: 5"), {"on_failure": "skip", "chunk": 5}),
    "a percentage of the node's samples": (SAMPLES + steps("$(X)", "max_fails: 70%"), {"max_fails": 2}),
    "seconds": (steps("x", "walltime: 90"), {"walltime_s": 90}),
    "m:s": (steps("x", "walltime: 1:30"), {"walltime_s": 90}),
    "h:m:s, not in base sixty": (steps("x", "walltime: 10:30:00"), {"walltime_s": 37800}),
    "d:h:m:s": (steps("x", "walltime: '2:14:03:04'"), {"walltime_s": 223384}),
    "a variable as walltime": ("env: {variables: {W: '1:00'}}\n" + steps("x", "walltime: $(W)"), {"walltime_s": 60}),
    "batch.walltime is the workers'": ("batch: {walltime: 1:00}\n" + steps("x"), {"walltime_s": None}),
    "scripts of every scheduler end alike": ("batch: {type: flux}\n" + steps("x"), {"script_ending": ".slurm.sh"}),
    "a sample token in restart alone": (SAMPLES + steps("x", "restart: $(X)"), {"uses_samples": True}),
    "a sample token in a label": ("env: {labels: {L: $(Y)}}\n" + SAMPLES + steps("$(L)"), {"uses_samples": True}),
    "a column in quotes of the shell": (SAMPLES + steps("'\\$(X)'"), {"uses_samples": False}),
    "blanks make a directory's underscore": (
        HEAD + steps("x").replace("name: s\n", "name: 'a b: c'\n"),
        {"directory": "a_b_c"},
    ),
}


@pytest.mark.parametrize(("text", "expected"), SETTINGS.values(), ids=SETTINGS.keys())
def test_the_step_is_what_the_rule_says(area, text, expected):
    step = planned(area, text, output_path=str(area)).steps[0]
    assert {name: getattr(step, name) for name in expected} == expected


QUEUES = {
    "merlin unless said": (steps("x"), ["merlin"]),
    "Merlin's word none": (steps("x", "task_queue: None"), ["merlin"]),
    "a variable and a parameter": (
        "env: {variables: {Q: q}}\n" + TWO + steps("x", "task_queue: $(Q)_$(B)"),
        ["q_x", "q_y"],
    ),
}


@pytest.mark.parametrize(("text", "expected"), QUEUES.values(), ids=QUEUES.keys())
def test_the_queue_is_what_the_rule_says(area, text, expected):
    assert [node.queue for node in planned(area, text, output_path=str(area)).nodes] == expected


REFUSED = {
    "a token with a wrong name, careful: Merlin leaves it to the shell": (steps("echo $(NOPE)"), "'$(NOPE)' is not"),
    "a slip behind a parameter's name, also in small letters": (TWO + steps("$(A.lable)"), "'$(A.lable)' is not"),
    "any unknown name outside scripts": (steps("x", "task_queue: $(nope)"), "'$(nope)' is not a known name."),
    "a sample token without samples": (steps("echo $(MERLIN_SAMPLE_ID)"), "the study has no samples"),
    "a sample token in a queue": (SAMPLES + steps("x", "task_queue: $(X)"), "can't be used in task_queue"),
    "a parameter in another one's values": (
        "global.parameters: {A: {values: [$(B)], label: a}, B: {values: [1], label: b}}\n" + steps("x"),
        "can't be used in a value of 'A'",
    ),
    "more columns than labels, careful: Merlin drops them": (
        SAMPLES.replace("[X, Y]", "[X]") + steps("x"),
        "has 2 columns, and column_labels names 1.",
    ),
    "both names of the block, careful: one would be ignored": (
        SAMPLES + "mrun: {}\n" + steps("x"),
        "'merlin' and 'mrun' are one block",
    ),
    "more than the step has": (steps("$(LAUNCHER)[8p] x", "procs: 4"), "more nodes or procs than the step has"),
    "a missing path before anything runs": (
        "env: {dependencies: {paths: [{name: P, path: no/file}]}}\n" + steps("$(P)"),
        "The dependency 'P' is missing",
    ),
    "a reserved name": (
        "env: {variables: {MERLIN_RETRY: 1}}\n" + steps("x"),
        "'MERLIN_RETRY' is a name that mrun sets",
    ),
    "two steps of one name, careful: the first would be lost": (
        steps("x", more=other("s", "y")),
        "The step name 's' stands twice",
    ),
    "labels of one directory, careful: results would be overwritten": (
        "global.parameters: {A: {values: [a/b, ab], label: '%%'}}\n" + steps("$(A)"),
        "would share the directory 'ab'",
    ),
    "a circle of steps": (steps("x", "depends: [o]", more=other("o", "y", "s")), "s → o → s"),
    "a circle of variables": ("env: {variables: {U: $(V), V: $(U)}}\n" + steps("x"), "U → V → U"),
    "a study's name that is none after expansion": (
        "description: {name: $(N), description: d}\nenv: {variables: {N: a/b}}\n" + steps("x"),
        "The study's name 'a/b'",
    ),
}


@pytest.mark.parametrize(("text", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_is_one_problem_with_a_place(area, text, expected):
    with pytest.raises(SpecError) as caught:
        planned(area, text, output_path=str(area))
    (problem,) = caught.value.problems
    assert expected in problem.message
    assert problem.line > 0 or problem.path.endswith("t.csv")


WARNED = {
    "a workspace of a step that it does not wait for": (
        steps("echo $(o.workspace)", more=other("o", "x")),
        "names the workspace of 'o', and does not wait for it",
    ),
    "an environment variable that is not set": (
        "env: {variables: {V: $NOT_SET}}\n" + steps("$(V)"),
        "The environment variable 'NOT_SET' is not set",
    ),
    "equal labels with different values, careful: a row would vanish unseen": (
        "global.parameters: {A: {values: [1, 2], label: [a, a]}}\n" + steps("$(A)"),
        "the same label, 'a', and different values",
    ),
    "one label for different values": (
        "global.parameters: {A: {values: [1, 2], label: all}}\n" + steps("$(A)"),
        "the same label, 'all', and different values",
    ),
    "a file of sources that is nowhere": (
        "env: {sources: [setup.sh]}\n" + steps("true"),
        "There is no 'setup.sh' beside the spec or here",
    ),
    "a leading zero": (
        "global.parameters: {A: {values: [010], label: A.%%}}\n" + steps("$(A)"),
        "'010' is taken for the number 10",
    ),
}


@pytest.mark.parametrize(("text", "expected"), WARNED.values(), ids=WARNED.keys())
def test_what_may_surprise_is_one_warning_with_a_place(area, text, expected):
    (warning,) = checked(area, text).warnings
    assert warning.startswith("spec.yaml:")
    assert expected in warning


def test_vars_may_hold_an_equals_sign_and_come_before_the_spec(area):
    text = "env: {variables: {V: old, W: '[$(V)]'}, labels: {L: l}}\n" + steps("echo $(W) $(L)")
    plan = planned(area, text, variables={"V": "a=b", "L": "new"}, output_path=str(area))
    assert first_script(plan) == "#!/bin/bash\n\necho [a=b] new\n"


@pytest.mark.parametrize(("name", "says"), [("NOPE", "neither a variable nor a label"), ("MERLIN_INFO", "mrun's own")])
def test_vars_of_an_unknown_or_reserved_name_are_refused_with_all_else(area, name, says):
    with pytest.raises(SpecError) as caught:
        checked(area, steps("$(ONE) $(TWO)"), variables={name: "1"})
    assert [problem.line for problem in caught.value.problems] == [0, 6, 6]
    assert says in caught.value.problems[0].message


def test_one_sample_has_no_directory_and_no_pattern(area):
    (area / "t.csv").write_text("1,a\n")
    plan = planned(area, SAMPLES + steps("<$(MERLIN_SAMPLE_PATH)|$(MERLIN_GLOB_PATH)>$(X)"), output_path=str(area))
    assert first_script(plan) == "#!/bin/bash\n\n<|>1\n"
    assert NodeText(plan, 0).sample_directory(0) == f"{plan.workspace}/s"


def test_the_rooms_agree_on_the_names_that_are_reserved():
    assert RESERVED_NAMES == RESERVED
