"""Several mistakes at once, mistakes seen from several places, and what is only worth a warning."""

from __future__ import annotations

import pytest

from tests.unit.spec.mistakes import DESCRIPTION, run_with, spec_of, two_steps


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
