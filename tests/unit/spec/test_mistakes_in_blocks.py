"""A mistake in the spec's blocks, in `description`, `env` or `batch`: one problem, at its place, which quotes it."""

from __future__ import annotations

import pytest

from tests.unit.spec.mistakes import STUDY, assert_one_problem, spec_of

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
}


@pytest.mark.parametrize(("block", "message", "where", "hint"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_problem_at_its_place(problems_of, block, message, where, hint):
    assert_one_problem(problems_of(spec_of(block)), message, where, hint)


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
