"""A mistake in parameters, samples or workers: one problem, at its place, which quotes it."""

from __future__ import annotations

import pytest

from tests.unit.spec.mistakes import assert_one_problem, spec_of

MISTAKES = {
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
    assert_one_problem(problems_of(spec_of(block)), message, where, hint)
