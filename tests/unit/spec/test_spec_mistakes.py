"""One row per rule: a mistake in a spec gives one problem, at its place, with a message that quotes what is wrong."""

from __future__ import annotations

import pytest

from mrun.engine.errors import Problem, SpecError
from mrun.engine.spec.load import load_spec

DESCRIPTION = """\
description:
  name: study
  description: a study
"""
STUDY = """\
study:
  - name: sim
    description: simulates
    run:
      cmd: echo
"""


def spec_of(*blocks: str) -> str:
    """A spec of these blocks, with a description and a study where they give none."""
    text = "".join(block if block.endswith("\n") else block + "\n" for block in blocks)
    if "description:\n  name" not in text:
        text = DESCRIPTION + text
    return text if "\nstudy:" in text else text + STUDY


def run_with(line: str) -> str:
    return STUDY + f"      {line}\n"


def two_steps(first: str = "", second: str = "", names: tuple[str, str] = ("sim", "post")) -> str:
    return f"""\
study:
  - name: {names[0]}
    description: d
    run: {{cmd: echo{first}}}
  - name: {names[1]}
    description: d
    run: {{cmd: echo{second}}}
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load_text(text: str, **options):
        (tmp_path / "spec.yaml").write_text(text, encoding="utf-8")
        return load_spec("spec.yaml", **options)

    return load_text


@pytest.fixture
def problems_of(load):
    def find(text: str, **options) -> tuple[Problem, ...]:
        with pytest.raises(SpecError) as caught:
            load(text, **options)
        return caught.value.problems

    return find


MISTAKES = {
    # blocks
    "unknown block": ("stduy2: 1", "'stduy2' is no key of the spec.", "4:1", "Did you mean 'study'?"),
    "both merlin and mrun": ("merlin: {}\nmrun: {}", "'merlin' and 'mrun' are one block", "5:1", ""),
    "block that is a text": (
        "batch: slurm",
        "'batch' of the spec must be a block of keys, not the text 'slurm'.",
        "4:8",
        "",
    ),
    "block that is a list": ("env: [a]", "'env' of the spec must be a block of keys, not a list.", "4:6", ""),
    # env
    "unknown key of env": ("env: {variable: {}}", "'variable' is no key of the block 'env'.", "4:7", "'variables'"),
    "empty variable": ("env:\n  variables:\n    A: ''", "The variable 'A' has no value.", "6:5", ""),
    "null variable": ("env: {variables: {A: }}", "The variable 'A' has no value.", "4:19", ""),
    "mapping as variable": (
        "env: {variables: {A: {b: c}}}",
        "The variable 'A' must be a text, a number or a list",
        "4:22",
        "",
    ),
    "list in a list": (
        "env: {variables: {A: [[b]]}}",
        "'A' of the block 'env.variables' must hold single texts",
        "4:23",
        "",
    ),
    "empty list": ("env: {variables: {A: []}}", "The variable 'A' is an empty list.", "4:19", ""),
    "null label": ("env: {labels: {A: ~}}", "The label 'A' has no value.", "4:16", ""),
    "reserved variable": (
        "env: {variables: {MERLIN_SUCCESS: 1}}",
        "'MERLIN_SUCCESS' is a name that mrun sets",
        "4:19",
        "",
    ),
    "reserved synonym": (
        "env: {variables: {MRUN_SAMPLE_ID: 1}}",
        "'MRUN_SAMPLE_ID' is a name that mrun sets",
        "4:19",
        "",
    ),
    "reserved label": ("env: {labels: {WORKSPACE: 1}}", "'WORKSPACE' is a name that mrun sets itself.", "4:16", ""),
    "reserved launcher": ("env: {labels: {VLAUNCHER: 1}}", "'VLAUNCHER' is a name", "4:16", ""),
    "name with a bracket": ("env: {variables: {A(: 1}}", "'A(' can't be the name of a variable", "4:19", ""),
    "name with a blank": ("env: {variables: {A B: 1}}", "'A B' can't be the name of a variable", "4:19", ""),
    "empty variable name": ("env: {variables: {'': 1}}", "This variable has an empty name.", "4:20", ""),
    "variable and label": (
        "env:\n  variables: {A: 1}\n  labels: {A: 2}",
        "'A' is the name of a label, and of a variable at line 5.",
        "6:12",
        "",
    ),
    "sources that are a text": (
        "env: {sources: a.sh}",
        "'sources' of the block 'env' must be a list",
        "4:16",
        "Write sources: [a.sh].",
    ),
    "empty source": ("env: {sources: ['']}", "'sources' of the block 'env' holds an empty item.", "4:18", ""),
    "unknown dependency kind": ("env: {dependencies: {path: []}}", "'path' is no key", "4:22", "Did you mean 'paths'?"),
    "dependencies as mapping": (
        "env: {dependencies: {paths: {a: b}}}",
        "env.dependencies.paths must be a list.",
        "4:29",
        "",
    ),
    "dependency as text": (
        "env: {dependencies: {paths: [a]}}",
        "An entry of env.dependencies.paths must be",
        "4:30",
        "",
    ),
    "path without path": ("env: {dependencies: {paths: [{name: a}]}}", "has no key 'path'.", "4:30", ""),
    "git without url": ("env: {dependencies: {git: [{name: a, path: b}]}}", "has no key 'url'.", "4:28", ""),
    "git with tag and hash": (
        "env: {dependencies: {git: [{name: a, path: b, url: c, tag: d, hash: e}]}}",
        "'a' has tag and hash.",
        "4:69",
        "",
    ),
    "unknown key of git": (
        "env: {dependencies: {git: [{name: a, path: b, url: c, tga: d}]}}",
        "'tga' is no key",
        "4:55",
        "'tag'",
    ),
    "reserved dependency": (
        "env: {dependencies: {paths: [{name: SPECROOT, path: a}]}}",
        "'SPECROOT' is a name",
        "4:37",
        "",
    ),
    "same dependency twice": (
        "env: {dependencies: {paths: [{name: a, path: b}, {name: a, path: c}]}}",
        "'a' is the name of a dependency, and of a dependency at line 4.",
        "4:57",
        "",
    ),
    # batch
    "unknown batch key": ("batch: {banc: a}", "'banc' is no key of the block 'batch'.", "4:9", "Did you mean 'bank'?"),
    "unknown batch type": ("batch: {type: slrum}", "'slrum' is no batch type that mrun knows.", "4:15", "'slurm'"),
    "batch walltime": (
        "batch: {walltime: 1h}",
        "'walltime' of the block 'batch' must be a walltime, and '1h'",
        "4:19",
        "",
    ),
    "walltime with five parts": ("batch: {walltime: '1:1:1:1:1'}", "must be a walltime", "4:20", ""),
    "batch nodes of zero": (
        "batch: {nodes: 0}",
        "'nodes' of the block 'batch' must be a whole number, at least 1",
        "4:16",
        "",
    ),
    "batch nodes as a word": ("batch: {nodes: some}", "at least 1 or 'all', and 'some' is not.", "4:16", ""),
    "dry_run as a number": ("batch: {dry_run: 2}", "'dry_run' of the block 'batch' must be yes or no", "4:18", ""),
    "shell that is a list": (
        "batch: {shell: [a]}",
        "'shell' of the block 'batch' must be a single text, not a list.",
        "4:16",
        "",
    ),
    # parameters
    "parameter without values": (
        "global.parameters:\n  A: {label: A.%%}",
        "The parameter 'A' has no values.",
        "5:3",
        "",
    ),
    "parameter with null values": (
        "global.parameters:\n  A: {values: , label: A.%%}",
        "The parameter 'A' has no values.",
        "5:3",
        "",
    ),
    "parameter with no values": (
        "global.parameters:\n  A: {values: [], label: A.%%}",
        "The parameter 'A' has no values.",
        "5:3",
        "",
    ),
    "parameter with a null value": (
        "global.parameters:\n  A: {values: [~], label: A.%%}",
        "holds an empty item",
        "5:16",
        "",
    ),
    "parameter with a list value": (
        "global.parameters:\n  A: {values: [[1]], label: A.%%}",
        "single texts only",
        "5:16",
        "",
    ),
    "values that are a text": (
        "global.parameters:\n  A: {values: 3, label: A.%%}",
        "'values' of parameter 'A' must be a list",
        "5:15",
        "",
    ),
    "parameter without label": (
        "global.parameters:\n  A: {values: [1]}",
        "Parameter 'A' has no key 'label'.",
        "5:6",
        "%%",
    ),
    "parameter with an empty label": (
        "global.parameters:\n  A: {values: [1], label: ''}",
        "'label' of parameter 'A' is empty.",
        "5:20",
        "",
    ),
    "label that is a mapping": (
        "global.parameters:\n  A: {values: [1], label: {a: b}}",
        "must be a single text",
        "5:27",
        "",
    ),
    "too few labels": (
        "global.parameters:\n  A: {values: [1, 2], label: [a]}",
        "The parameter 'A' has 2 values and 1 label.",
        "5:30",
        "",
    ),
    "null in labels": (
        "global.parameters:\n  A: {values: [1], label: [~]}",
        "'label' of parameter 'A' holds an empty item",
        "5:28",
        "",
    ),
    "uneven lists": (
        "global.parameters:\n  A: {values: [1, 2], label: A.%%}\n  B: {values: [1, 2, 3], label: B.%%}",
        "The parameter 'B' has 3 values, and 'A' has 2.",
        "6:3",
        "",
    ),
    "unknown key of a parameter": (
        "global.parameters:\n  A: {values: [1], labels: a, label: b}",
        "'labels' is no key of parameter 'A'.",
        "5:20",
        "'label'",
    ),
    "empty parameter": ("global.parameters:\n  A:", "The parameter 'A' is empty.", "5:3", ""),
    "parameter that is a list": (
        "global.parameters:\n  A: [1]",
        "'A' of the block 'global.parameters' must be a block",
        "5:6",
        "",
    ),
    "reserved parameter": (
        "global.parameters:\n  LAUNCHER: {values: [1], label: a}",
        "'LAUNCHER' is a name that mrun sets",
        "5:3",
        "",
    ),
    # study
    "empty study": ("study: []", "The spec has no steps.", "4:1", ""),
    "null study": ("study:", "The spec has no steps.", "4:1", ""),
    "study that is a mapping": ("study: {sim: 1}", "The block 'study' must be a list of steps.", "4:8", ""),
    "study that is a text": ("study: sim", "The block 'study' must be a list of steps.", "4:8", ""),
    "step that is a text": ("study: [sim]", "A step must be a block of keys.", "4:9", ""),
    "step without a name": ("study: [{description: d, run: {cmd: a}}]", "A step has no key 'name'.", "4:9", ""),
    "step with an empty name": (
        "study: [{name: '', description: d, run: {cmd: a}}]",
        "'name' of a step is empty.",
        "4:10",
        "",
    ),
    "step without a description": (
        "study: [{name: a, run: {cmd: a}}]",
        "Step 'a' has no key 'description'.",
        "4:9",
        "",
    ),
    "step without run": ("study: [{name: a, description: d}]", "Step 'a' has no block 'run'.", "4:9", ""),
    "step with an empty run": (
        "study: [{name: a, description: d, run: {}}]",
        "Step 'a' has no block 'run'.",
        "4:9",
        "",
    ),
    "run that is a text": (
        "study: [{name: a, description: d, run: echo}]",
        "'run' of step 'a' must be a block of keys",
        "4:40",
        "",
    ),
    "step without cmd": (
        "study: [{name: a, description: d, run: {nodes: 1}}]",
        "The run of step 'a' has no key 'cmd'.",
        "4:40",
        "",
    ),
    "step with a null cmd": (
        "study: [{name: a, description: d, run: {cmd: }}]",
        "'cmd' of the run of step 'a' is empty.",
        "4:41",
        "",
    ),
    "cmd that is a list": (
        "study: [{name: a, description: d, run: {cmd: [a]}}]",
        "'cmd' of the run of step 'a' must be a single",
        "4:46",
        "",
    ),
    "unknown key of a step": (
        "study: [{name: a, description: d, ruin: 1, run: {cmd: a}}]",
        "'ruin' is no key of step 'a'.",
        "4:35",
        "'run'",
    ),
    "unknown key of run": (
        run_with("depend: []"),
        "'depend' is no key of the run of step 'sim'.",
        "9:7",
        "Did you mean 'depends'?",
    ),
    "step named by dots": (two_steps(names=("..", "post")), "'..' can't be the name of a step", "5:11", ""),
    "step named merlin_info": (
        two_steps(names=("merlin_info", "post")),
        "'merlin_info' can't be the name of a step",
        "5:11",
        "",
    ),
    "step without a letter": (two_steps(names=("'???'", "post")), "'???' can't be the name of a step", "5:12", ""),
    "same step twice": (
        two_steps(names=("sim", "sim")),
        "The step name 'sim' stands twice: here and at line 5.",
        "8:11",
        "",
    ),
    # depends
    "unknown dependency": (
        two_steps(second=", depends: [smi]"),
        "Step 'post' depends on 'smi', which is no step.",
        "10:32",
        "'sim'",
    ),
    "unknown funnel": (
        two_steps(second=", depends: [smi_*]"),
        "Step 'post' depends on 'smi_*', which is no step.",
        "10:32",
        "'sim'",
    ),
    "depends that is a text": (
        run_with("depends: sim"),
        "'depends' of the run of step 'sim' must be a list",
        "9:16",
        "[sim]",
    ),
    "null in depends": (
        run_with("depends: [~]"),
        "'depends' of the run of step 'sim' holds an empty item.",
        "9:17",
        "",
    ),
    "same dependency of a step twice": (
        two_steps(second=", depends: [sim, sim]"),
        "'sim' stands twice in depends",
        "10:37",
        "",
    ),
    "step that waits for itself": (
        run_with("depends: [sim]"),
        "These steps wait for each other: sim → sim.",
        "9:17",
        "",
    ),
    "step that waits for all of itself": (run_with("depends: [sim_*]"), "wait for each other: sim → sim.", "9:17", ""),
    "cycle of two": (
        two_steps(", depends: [post]", ", depends: [sim]"),
        "These steps wait for each other: sim → post → sim.",
        "10:32",
        "",
    ),
    # run
    "negative max_retries": (
        run_with("max_retries: -1"),
        "'max_retries' of the run of step 'sim' must be a whole number, at least 0",
        "9:20",
        "",
    ),
    "real max_retries": (run_with("max_retries: 1.5"), "and '1.5' is not.", "9:20", ""),
    "octal or decimal": (run_with("max_retries: 010"), "and '010' is not.", "9:20", ""),
    "negative retry_delay": (run_with("retry_delay: -1"), "must be a number of seconds, at least 0", "9:20", ""),
    "retry_delay that never ends": (
        run_with("retry_delay: inf"),
        "must be a number of seconds, at least 0",
        "9:20",
        "",
    ),
    "negative max_losses": (run_with("max_losses: -1"), "'max_losses'", "9:19", ""),
    "chunk of zero": (run_with("chunk: 0"), "must be auto or a whole number, at least 1", "9:14", ""),
    "chunk as a word": (run_with("chunk: big"), "and 'big' is not", "9:14", ""),
    "unknown on_failure": (
        run_with("on_failure: abrt"),
        "must be one of continue, skip, abort, and 'abrt' is not.",
        "9:19",
        "'abort'",
    ),
    "unknown mode": (run_with("mode: jobs"), "must be one of inside, step, job", "9:13", "Did you mean 'job'?"),
    "warm as a word": (run_with("warm: perhaps"), "'warm' of the run of step 'sim' must be yes or no", "9:13", ""),
    "max_fails over all": (run_with("max_fails: 101%"), "must be a number of samples or a percentage", "9:18", ""),
    "negative max_fails": (run_with("max_fails: -1"), "must be a number of samples or a percentage", "9:18", ""),
    "step walltime": (run_with("walltime: ten"), "must be a walltime, and 'ten' is not.", "9:17", ""),
    "no nodes": (run_with("nodes: 0"), "must be a whole number, at least 1, and '0' is not.", "9:14", ""),
    "procs as a word": (run_with("procs: many"), "'procs' of the run of step 'sim' must be a whole number", "9:14", ""),
    "negative gpus": (run_with("gpus per task: -1"), "must be a whole number, at least 0", "9:22", ""),
    "exclusive as a word": (
        run_with("exclusive: very"),
        "'exclusive' of the run of step 'sim' must be yes or no",
        "9:18",
        "",
    ),
    "bind that is a list": (run_with("bind: [rs]"), "must be a single text, not a list", "9:13", ""),
    "one resource in two spellings": (
        run_with("cores per task: 1\n      cores_per_task: 2"),
        "'cores_per_task' of the run of step 'sim' stands twice",
        "10:7",
        "",
    ),
    "unknown type of a step": (run_with("batch: {type: fluks}"), "'fluks' is no batch type", "9:21", "'flux'"),
    "unknown key of a step's batch": (
        run_with("batch: {bank: a}"),
        "'bank' is no key of the batch of the run of step 'sim'",
        "9:15",
        "",
    ),
    "named resource of zero": (
        run_with("resources: {licenses/foo: 0}"),
        "'licenses/foo' of the resources of the run",
        "9:33",
        "",
    ),
    # merlin
    "unknown key of merlin": ("merlin: {sample: {}}", "'sample' is no key of the block 'merlin'.", "4:10", "'samples'"),
    "unknown key of mrun": ("mrun: {sample: {}}", "'sample' is no key of the block 'mrun'.", "4:8", "'samples'"),
    "unknown key of resources": (
        "merlin: {resources: {worker: {}}}",
        "'worker' is no key of the block 'merlin.resources'.",
        "4:22",
        "",
    ),
    "overlap as a word": (
        "merlin: {resources: {overlap: some}}",
        "'overlap' of the block 'merlin.resources' must be yes",
        "4:31",
        "",
    ),
    "workers as a list": ("merlin: {resources: {workers: [w]}}", "must be a block of keys, not a list", "4:31", ""),
    "unknown key of a worker": (
        "merlin: {resources: {workers: {w: {step: [sim]}}}}",
        "'step' is no key of worker 'w'.",
        "4:36",
        "'steps'",
    ),
    "unknown step of a worker": (
        "merlin: {resources: {workers: {w: {steps: [smi]}}}}",
        "Worker 'w' lists 'smi', which is no step.",
        "4:44",
        "'sim'",
    ),
    "steps as a text": (
        "merlin: {resources: {workers: {w: {steps: sim}}}}",
        "'steps' of worker 'w' must be a list",
        "4:43",
        "[sim]",
    ),
    "worker nodes": (
        "merlin: {resources: {workers: {w: {nodes: 0}}}}",
        "'nodes' of worker 'w' must be a whole number",
        "4:43",
        "",
    ),
    "worker batch type": (
        "merlin: {resources: {workers: {w: {batch: {type: x}}}}}",
        "'x' is no batch type",
        "4:50",
        "",
    ),
    "worker batch key": (
        "merlin: {resources: {workers: {w: {batch: {tpe: pbs}}}}}",
        "'tpe' is no key of the batch of worker 'w'.",
        "4:44",
        "'type'",
    ),
    "worker batch walltime": (
        "merlin: {resources: {workers: {w: {batch: {walltime: x}}}}}",
        "must be a walltime",
        "4:54",
        "",
    ),
    "samples without a file": (
        "merlin: {samples: {column_labels: [A]}}",
        "The block 'merlin.samples' has no key 'file'.",
        "4:19",
        "",
    ),
    "unknown sample format": (
        "merlin: {samples: {file: a.txt}}",
        "The sample file 'a.txt' ends with none of .npy, .csv, .tab.",
        "4:26",
        "",
    ),
    "generate without cmd": (
        "merlin: {samples: {file: a.npy, generate: {cmd: }}}",
        "'cmd' of the block 'merlin.samples.generate' is",
        "4:44",
        "",
    ),
    "unknown key of generate": (
        "merlin: {samples: {file: a.npy, generate: {cmd: a, cdm: b}}}",
        "'cdm' is no key",
        "4:52",
        "'cmd'",
    ),
    "level_max_dirs of one": (
        "merlin: {samples: {file: a.npy, level_max_dirs: 1}}",
        "'level_max_dirs' of the block 'merlin.samples'",
        "4:49",
        "",
    ),
    "unknown files": ("merlin: {samples: {file: a.npy, files: fat}}", "must be one of full, lean, packed", "4:40", ""),
    "unknown key of samples": ("merlin: {samples: {file: a.npy, labels: []}}", "'labels' is no key", "4:33", ""),
    "labels as a text": (
        "merlin: {samples: {file: a.npy, column_labels: 'A, B'}}",
        "'column_labels' of the block 'merlin.samples' must be a list",
        "4:49",
        "[A, B]",
    ),
    "same label twice": (
        "merlin: {samples: {file: a.npy, column_labels: [A, A]}}",
        "The column label 'A' stands twice",
        "4:52",
        "",
    ),
    "reserved column": (
        "merlin: {samples: {file: a.npy, column_labels: [WORKSPACE]}}",
        "'WORKSPACE' is a name",
        "4:49",
        "",
    ),
    "column that is a variable": (
        "env: {variables: {A: 1}}\nmerlin: {samples: {file: a.npy, column_labels: [A]}}",
        "'A' is the name of a sample column, and of a variable at line 4.",
        "5:49",
        "",
    ),
    "column that is a label": (
        "env: {labels: {A: 1}}\nmerlin: {samples: {file: a.npy, column_labels: [A]}}",
        "'A' is the name of a sample column, and of a label at line 4.",
        "5:49",
        "",
    ),
    "column that is a parameter": (
        "global.parameters: {A: {values: [1], label: A.%%}}\nmerlin: {samples: {file: a.npy, column_labels: [A]}}",
        "'A' is the name of a sample column, and of a parameter at line 4.",
        "5:49",
        "",
    ),
}


@pytest.mark.parametrize(("block", "message", "where", "hint"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_problem_at_its_place(problems_of, block, message, where, hint):
    problems = problems_of(spec_of(block))

    assert [(problem.where, message in problem.message) for problem in problems] == [(f"spec.yaml:{where}", True)], (
        problems
    )
    assert hint in problems[0].hint
    assert "\n" not in problems[0].message
    assert problems[0].message.endswith(".")


DESCRIPTIONS = {
    "missing": ("", "The spec has no block 'description'.", "1:1"),
    "null": ("description:\n", "The spec has no block 'description'.", "1:1"),
    "empty": ("description: {}\n", "The spec has no block 'description'.", "1:1"),
    "a text": ("description: hello\n", "'description' of the spec must be a block of keys", "1:14"),
    "without name": ("description: {description: d}\n", "The block 'description' has no key 'name'.", "1:14"),
    "with an empty name": (
        "description: {name: '', description: d}\n",
        "'name' of the block 'description' is empty.",
        "1:15",
    ),
    "with a blank name": (
        "description: {name: '  ', description: d}\n",
        "'name' of the block 'description' is empty.",
        "1:15",
    ),
    "with a slash": ("description: {name: a/b, description: d}\n", "The study's name 'a/b' holds '/'", "1:21"),
    "without description": ("description: {name: a}\n", "has no key 'description'.", "1:14"),
    "with a null description": ("description: {name: a, description: }\n", "is empty.", "1:24"),
    "with an unknown key": (
        "description: {name: a, description: d, nmae: b}\n",
        "'nmae' is no key of the block 'description'.",
        "1:40",
    ),
}


@pytest.mark.parametrize(("block", "message", "where"), DESCRIPTIONS.values(), ids=DESCRIPTIONS.keys())
def test_a_description_is_checked(problems_of, block, message, where):
    problems = problems_of(block + STUDY)

    assert [(problem.where, message in problem.message) for problem in problems] == [(f"spec.yaml:{where}", True)], (
        problems
    )


def test_a_missing_study_is_a_problem(problems_of):
    assert [problem.message for problem in problems_of(DESCRIPTION)] == ["The spec has no steps."]


def test_a_dozen_mistakes_are_a_dozen_problems_in_file_order(problems_of):
    text = """\
description:
  name: a/b
batch:
  typ: slurm
  walltime: soon
study:
  - name: sim
    description: simulates
    run:
      cmd: echo
      nodes: none
      depends: [psot]
  - name: sim
    description: twice
    run:
      max_retries: -3
merlin:
  resources:
    workers:
      w: {steps: [sims]}
  samples:
    file: samples.xls
    level_max_dirs: 1
"""
    problems = problems_of(text)

    assert [(problem.line, problem.column) for problem in problems] == [
        (2, 3),
        (2, 9),
        (4, 3),
        (5, 13),
        (11, 14),
        (12, 17),
        (13, 11),
        (16, 7),
        (16, 20),
        (20, 19),
        (22, 11),
        (23, 21),
    ]
    assert all(problem.path == "spec.yaml" and problem.hint for problem in problems)


def test_a_long_cycle_is_shown_once_however_it_is_entered(problems_of):
    steps = "".join(
        f"  - name: {name}\n    description: d\n    run: {{cmd: a, depends: [{depends}]}}\n"
        for name, depends in [("top", "a"), ("a", "b"), ("b", "c"), ("c", "'a_*'"), ("low", "b")]
    )
    problems = problems_of(DESCRIPTION + "study:\n" + steps)

    assert [problem.message for problem in problems] == ["These steps wait for each other: a → b → c → a."]
    assert problems[0].line == 16


def test_two_separate_cycles_are_two_problems(problems_of):
    steps = "".join(
        f"  - name: {name}\n    description: d\n    run: {{cmd: a, depends: [{depends}]}}\n"
        for name, depends in [("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")]
    )
    assert len(problems_of(DESCRIPTION + "study:\n" + steps)) == 2


def test_a_chain_of_a_thousand_steps_is_no_problem_for_the_stack():
    from mrun.engine.spec.depends import check_depends
    from mrun.engine.spec.model import Run, Step, Text
    from mrun.engine.spec.problems import Problems

    steps = tuple(
        Step(Text(f"s{i}"), Text("d"), Run(cmd=Text("a"), depends=(Text(f"s{i + 1}"),) if i < 999 else ()))
        for i in range(1000)
    )
    problems = Problems("spec.yaml")
    check_depends(steps, problems)
    problems.raise_if_any()


def test_leniency_turns_unknown_keys_into_warnings_and_nothing_else(load, problems_of):
    text = spec_of("batch: {banc: a}\nuser2: {b: c}")

    _, warnings = load(text, is_lenient=True)

    assert [warning.message for warning in warnings] == [
        "'banc' is no key of the block 'batch'.",
        "'user2' is no key of the spec.",
    ]
    assert [problem.line for problem in problems_of(spec_of("batch: {banc: a, nodes: 0}"), is_lenient=True)] == [4]


def test_samples_need_no_file_where_another_one_is_given(load, problems_of):
    text = spec_of("merlin: {samples: {column_labels: [X]}}")

    spec, _ = load(text, has_samples_file=True)

    assert spec.samples.file.value == ""
    assert [problem.message for problem in problems_of(text)] == ["The block 'merlin.samples' has no key 'file'."]


WARNINGS = {
    "a key that only Maestro knows": ("batch: {host: quartz}", "'host' of the block 'batch' has no effect in mrun.", 4),
    "a block that only Maestro knows": ("execution: {}", "'execution' of the spec has no effect in mrun.", 4),
    "a run key without effect": (run_with("pre: a"), "'pre' of the run of step 'sim' has no effect in mrun.", 9),
    "a leading zero": (
        "global.parameters: {A: {values: [010], label: a}}",
        "The value '010' is taken for the number 10.",
        4,
    ),
    "a parameter and a variable": (
        "env: {variables: {A: 1}}\nglobal.parameters: {A: {values: [1], label: a}}",
        "'A' is the name of a parameter, and of a variable at line 4.",
        5,
    ),
}


@pytest.mark.parametrize(("block", "message", "line"), WARNINGS.values(), ids=WARNINGS.keys())
def test_what_runs_but_may_surprise_is_a_warning(load, block, message, line):
    _, warnings = load(spec_of(block))

    assert [(warning.message, warning.line) for warning in warnings] == [(message, line)]


def test_a_mistake_in_a_merged_mapping_is_reported_once(problems_of):
    text = DESCRIPTION + (
        "user: {run: &run {nodes: none}}\n"
        "study:\n"
        "  - {name: a, description: d, run: {<<: *run, cmd: a}}\n"
        "  - {name: a2, description: d, run: {<<: *run, cmd: a}}\n"
    )
    assert {problem.line for problem in problems_of(text)} == {4}


def test_one_step_under_two_aliases_is_there_twice(problems_of):
    text = DESCRIPTION + "study:\n  - &sim {name: sim, description: d, run: {cmd: a}}\n  - *sim\n"

    assert [problem.message for problem in problems_of(text)] == [
        "The step name 'sim' stands twice: here and at line 5."
    ]


def test_a_step_without_a_name_hides_no_other_mistake(problems_of):
    text = (
        DESCRIPTION + "study:\n  - {description: d, run: {cmd: a, depends: [b]}}\n  - {description: d, run: {cmd: a}}\n"
    )

    assert [(problem.line, problem.column) for problem in problems_of(text)] == [(5, 5), (5, 46), (6, 5)]


def test_names_that_may_still_hold_tokens_are_left_to_the_plan(load):
    text = spec_of(
        two_steps(names=("sim_$(A)", "post"), second=", depends: [sim_1]"),
        "merlin: {resources: {workers: {w: {steps: [sim_1, $(B)]}}}}",
    )
    spec, warnings = load(text)

    assert spec.steps[1].run.depends[0].value == "sim_1"
    assert warnings == ()
