"""A mistake in `study`, in `depends` or in a step's `run`: one problem, at its place, which quotes it."""

from __future__ import annotations

import pytest

from tests.unit.spec.mistakes import assert_one_problem, run_with, spec_of, two_steps

MISTAKES = {
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
}


@pytest.mark.parametrize(("block", "message", "where", "hint"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_problem_at_its_place(problems_of, block, message, where, hint):
    assert_one_problem(problems_of(spec_of(block)), message, where, hint)
