"""A variable may stand under every key: the plan is that of a spec which says its value."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from mrun.engine.errors import SpecError
from mrun.engine.plan.model import Plan
from mrun.engine.spec.load import load_spec
from mrun.engine.spec.model import Spec
from mrun.engine.steps.compile import compile_plan
from mrun.engine.steps.workers import order_workers

from .specs import resolved, table

SPEC = """
    description: {name: <NAME>, description: <DESCRIPTION>}
    env: {variables: {V: <VALUE>}}
    batch: {<BATCH>, shell: <SHELL>, type: <TYPE>}
    study:
      - name: <STEP>
        description: d
        run:
          cmd: $(LAUNCHER) echo $(X) $(P)
          <RUN>
      - name: other
        description: d
        run: {cmd: 'true', depends: [<DEPENDS>]}
    global.parameters: {P: {values: [<PVALUE>, 2], label: <PLABEL>.%%, name: <PNAME>}}
    merlin:
      resources: {workers: {<WORKER>: {args: <ARGS>, steps: [<STEPS>], machines: [<MACHINE>], <NODES>}}}
      samples: {file: <FILE>, column_labels: [X, <COLUMN>], <LEVEL>}
"""
DEFAULTS = {
    "NAME": "study", "DESCRIPTION": "d", "VALUE": "v", "BATCH": "bank: b", "SHELL": "/bin/sh", "TYPE": "slurm",
    "STEP": "sim", "RUN": "procs: 2", "DEPENDS": "sim_*", "PVALUE": "1", "PLABEL": "P", "PNAME": "p",
    "WORKER": "w", "ARGS": "-c 2", "STEPS": "sim", "MACHINE": "ho", "NODES": "nodes: 1", "FILE": "s.csv",
    "COLUMN": "Y", "LEVEL": "level_max_dirs: 3",
}  # fmt: skip


def spec_of(path: Path, text: str = SPEC, **texts: str) -> Spec:
    """The spec with those texts in their places."""
    for name, written in (DEFAULTS | texts).items():
        text = text.replace(f"<{name}>", written)
    path.write_text(textwrap.dedent(text))
    spec, problems = load_spec(str(path))
    assert problems == ()
    return spec


def plan_of(spec: Spec) -> Plan:
    return compile_plan(resolved(spec, environment={"PATH": ""}), table(9, ["X", "Y"]))


def essence(plan: Plan) -> tuple[object, ...]:
    """All of a plan but where the texts stand of which it warns."""
    return (plan.name, plan.description, plan.steps, plan.nodes, plan.barriers, plan.parameters, plan.level_max_dirs)


@pytest.mark.parametrize(
    ("where", "template", "value"),
    [
        *(("RUN", f"{key}: §", value) for key, value in [
            ("task_queue", "q"), ("shell", "/bin/csh"), ("max_retries", "4"), ("retry_delay", "2.5"),
            ("nodes", "3"), ("procs", "4"), ("cores per task", "2"), ("gpus per task", "1"), ("gpus", "2"),
            ("exclusive", "yes"), ("nested", "no"), ("reservation", "r"), ("priority", "high"), ("qos", "q"),
            ("walltime", "1:30:00"), ("slurm", "--mpi=none"), ("flux", "-o x"), ("lsf", "-x"), ("pbs", "-x"),
            ("bind", "rs"), ("num resource set", "2"), ("launch distribution", "packed"), ("exit_on_error", "1"),
            ("tasks per rs", "1"), ("rs per node", "1"), ("cpus per rs", "1"), ("bind gpus", "none"),
            ("on_failure", "skip"), ("max_fails", "5%"), ("max_losses", "0"), ("chunk", "7"), ("chunk", "auto"),
            ("mode", "inside"), ("warm", "no"), ("restart", "echo again"),
        ]),
        ("RUN", "batch: {type: §}", "flux"),
        ("STEP", "§", "sim"), ("DEPENDS", "§_*", "sim"),
        ("NAME", "a §", "b"), ("DESCRIPTION", "a §", "b"),
        ("TYPE", "§", "flux"), ("SHELL", "§", "/bin/zsh"),
        *(("BATCH", f"{key}: §", value) for key, value in [
            ("bank", "b"), ("queue", "q"), ("walltime", "60"), ("nodes", "all"), ("nodes", "2"), ("dry_run", "no"),
            ("launch_pre", "x"), ("launch_args", "x"), ("worker_launch", "x"), ("flux_path", "x"),
            ("flux_start_opts", "x"), ("flux_exec", "x"), ("flux_exec_workers", "no"), ("reservation", "x"),
        ]),
        ("PVALUE", "§", "7"), ("PLABEL", "§", "Q"), ("PNAME", "§", "long name"),
        ("FILE", "§", "t.csv"), ("FILE", "§/t.npy", "data"), ("COLUMN", "§", "Y"),
        ("LEVEL", "level_max_dirs: §", "4"), ("LEVEL", "files: §", "full"), ("LEVEL", "generate: {cmd: echo §}", "1"),
        ("WORKER", "§", "night"), ("ARGS", "§", "-c 7"), ("ARGS", "-c §", "7"), ("STEPS", "§", "other"),
        ("STEPS", "§", "all"), ("MACHINE", "§", "ho"), ("MACHINE", "§", "elsewhere"), ("NODES", "nodes: §", "3"),
        ("NODES", "nodes: §", "all"), ("NODES", "batch: {type: §}", "flux"),
    ],
)  # fmt: skip
def test_a_variable_under_a_key_is_as_good_as_its_value(tmp_path, where, template, value):
    plans, workers = [], []
    for written in (value, "$(V)"):
        text = template.replace("§", written)
        spec = spec_of(tmp_path / "spec.yaml", VALUE=f"'{value}'", **{where: text})
        plans.append(plan_of(spec))
        orders = order_workers(resolved(spec).workers, plans[-1], "host")
        workers.append((orders.here, orders.elsewhere))
    assert essence(plans[0]) == essence(plans[1])
    assert workers[0] == workers[1]


def test_a_list_of_column_labels_may_be_a_variable(tmp_path):
    given = SPEC.replace("[X, <COLUMN>]", "<LABELS>")
    spec = spec_of(tmp_path / "spec.yaml", given, VALUE="[X, Y]", LABELS="$(V)")
    assert plan_of(spec).samples == table(9, ["X", "Y"])
    # As it stands in the expanded copy.
    spec = spec_of(tmp_path / "spec.yaml", given, LABELS="X Y")
    assert plan_of(spec).samples == table(9, ["X", "Y"])


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("max_retries", "max_retries of step 'sim' must be a whole number of at least 0, not 'many'."),
        ("retry_delay", "retry_delay of step 'sim' must be a number of seconds, not 'many'."),
        ("chunk", "chunk of step 'sim' must be auto or a whole number, not 'many'."),
        ("on_failure", "on_failure of step 'sim' must be one of continue, skip, abort, not 'many'."),
        ("mode", "The mode of step 'sim' must be one of inside, step, job, not 'many'."),
        ("warm", "'warm' of step 'sim' must be yes or no, not 'many'."),
    ],
)
def test_a_variable_that_makes_a_key_wrong_is_told_with_its_value(tmp_path, key, expected):
    spec = spec_of(tmp_path / "spec.yaml", RUN=f"{key}: $(V)", VALUE="many")
    with pytest.raises(SpecError) as caught:
        plan_of(spec)
    assert [problem.message for problem in caught.value.problems] == [expected]
    assert caught.value.problems[0].line == 10
