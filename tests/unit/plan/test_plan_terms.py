"""What may differ from row to row besides scripts: a parameter under any key of `run`, and what that costs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mrun.engine.plan.model import Plan
from mrun.engine.spec.model import Batch, Samples, Text
from mrun.engine.steps.classes import CLASSES_MOST
from mrun.engine.steps.compile import compile_plan
from mrun.engine.steps.render import NodeText

from .specs import body, make_spec, parameter, plan, problems, resolved, step, table, text

SLURM = Batch(type=Text("slurm"))


def terms(the_plan: Plan, name: str) -> list[Any]:
    """That field of the terms of every node."""
    return [getattr(NodeText(the_plan, node).terms, name) for node in range(len(the_plan.nodes))]


def row_by_row(values: list[object], **run: Any) -> Plan:
    """The plan of one step with a parameter P."""
    return plan(make_spec(step("s", "true $(X)", **run), parameters=(parameter("P", values),), columns=["X"]), count=40)


@pytest.mark.parametrize(
    ("run", "values", "field", "expected"),
    [
        ({"walltime": "$(P)"}, ["90", "1:00:00", "0"], "walltime_s", [90, 3600, None]),
        ({"walltime": "$(P):00"}, [1, 2], "walltime_s", [60, 120]),
        ({"shell": "/bin/$(P)"}, ["sh", "bash"], "shell", ["/bin/sh", "/bin/bash"]),
        ({"batch_type": "$(P)"}, ["local", "flux"], "script_ending", [".sh", ".slurm.sh"]),
        ({"max_fails": "$(P)"}, ["3", "5%", "100%"], "max_fails", [3, 2, 40]),
        ({"max_fails": "$(P)%"}, [5, 10], "max_fails", [2, 4]),
        ({"settings": {"max_retries": "$(P)"}}, [0, 7], "max_retries", [0, 7]),
        ({"settings": {"retry_delay": "$(P)"}}, [0, 0.5], "retry_delay_s", [0.0, 0.5]),
        ({"settings": {"on_failure": "$(P)"}}, ["skip", "abort"], "on_failure", ["skip", "abort"]),
        ({"settings": {"max_losses": "$(P)"}}, [0, 2], "max_losses", [0, 2]),
        ({"settings": {"chunk": "$(P)"}}, ["auto", "1_000"], "chunk", [None, 1000]),
    ],
)
def test_every_key_may_differ_from_row_to_row(run, values, field, expected):
    assert terms(row_by_row(values, **run), field) == expected


@pytest.mark.parametrize(
    ("run", "value", "expected"),
    [
        ({"walltime": "$(P)"}, "soon", "'soon' is not a walltime."),
        ({"batch_type": "$(P)"}, "slrum", "'slrum' is no batch type."),
        ({"max_fails": "$(P)"}, "many", "max_fails 'many' is not a number of samples or a percentage."),
        ({"max_fails": "$(P)"}, "101%", "max_fails '101%' is not a number of samples or a percentage."),
        ({"resources": {"exclusive": "$(P)"}}, "maybe", "exclusive must be yes or no, not 'maybe'."),
        ({"resources": {"gpus": "$(P)"}}, "-1", "gpus must be a whole number of at least 0, not '-1'."),
        ({"settings": {"max_retries": "$(P)"}}, "-1",
         "max_retries of step 's' must be a whole number of at least 0, not '-1'."),
        ({"settings": {"max_losses": "$(P)"}}, "x",
         "max_losses of step 's' must be a whole number of at least 0, not 'x'."),
        ({"settings": {"retry_delay": "$(P)"}}, "x", "retry_delay of step 's' must be a number of seconds, not 'x'."),
        ({"settings": {"retry_delay": "$(P)"}}, "-2",
         "retry_delay of step 's' must be a number of seconds, not '-2'."),
        ({"settings": {"on_failure": "$(P)"}}, "skp",
         "on_failure of step 's' must be one of continue, skip, abort, not 'skp'."),
        ({"settings": {"chunk": "$(P)"}}, "0", "chunk of step 's' must be auto or a whole number, not '0'."),
    ],
)  # fmt: skip
def test_rows_in_which_a_key_is_wrong_are_one_problem(run, value, expected):
    spec = make_spec(step("s", **run), parameters=(parameter("P", [value, f"{value}{value}"]),))
    assert problems(spec) == [expected]


@pytest.mark.parametrize("key", ["mode", "warm"])
def test_what_is_decided_for_a_whole_step_refuses_parameters(key):
    spec = make_spec(step("s", settings={key: "$(P)"}), parameters=(parameter("P", ["inside"]),))
    assert problems(spec)[0] == f"'$(P)' can't be used in {key} of step 's': it has no value there."


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"procs": "$(P.label)"}, ["srun -n 2 x", "srun -n 8 x"]),
        ({"procs": 4, "exclusive": "$(E)"}, ["srun -n 4 --exclusive x", "srun -n 4 x"]),
        ({"nodes": "$(Q.name)"}, ["srun -N 3 -n 3 x"]),
    ],
)
def test_labels_and_names_of_parameters_may_stand_in_resources(resources, expected):
    spec = make_spec(
        step("s", "$(LAUNCHER) x", resources=resources),
        batch=SLURM,
        parameters=(
            parameter("P", ["a", "b"], ["2", "8"]),
            parameter("E", ["yes", "off"]),
            msgspec.structs.replace(parameter("Q", ["a", "a"]), shown_name=text("3")),
        ),
    )
    the_plan = plan(spec)
    assert [body(the_plan, node) for node in range(len(the_plan.nodes))] == expected


def test_the_launchers_time_limit_is_the_rows():
    spec = make_spec(
        step("s", "$(LAUNCHER) x", walltime="$(P)"), batch=SLURM, parameters=(parameter("P", [60, "1:30:00"]),)
    )
    the_plan = plan(spec)
    assert [body(the_plan, node) for node in (0, 1)] == ["srun -N 1 -n 1 -t 00:01:00 x", "srun -N 1 -n 1 -t 01:30:00 x"]


def test_shells_of_different_kinds_get_lines_of_their_own():
    spec = make_spec(
        step("s", "$(VLAUNCHER) x", shell="$(P)", batch_type="slurm", resources={"procs": "$(N)"}),
        sources=(text("setup"),),
        parameters=(parameter("P", ["/bin/sh", "/bin/tcsh"]), parameter("N", [1, 2])),
    )
    the_plan = plan(spec)
    assert NodeText(the_plan, 1).script_text().startswith("#!/bin/tcsh\n\n")
    words = "srun -n ${MERLIN_PROCS} -N ${MERLIN_NODES} -c ${MERLIN_CORES} x"
    assert body(the_plan, 0).split("\n")[1:5] == ["MERLIN_PROCS=1", "MERLIN_CORES=1", "MERLIN_GPUS=0", ". setup"]
    assert body(the_plan, 1).split("\n")[1:5] == [
        "set MERLIN_PROCS = 2", "set MERLIN_CORES = 1", "set MERLIN_GPUS = 0", "source setup",
    ]  # fmt: skip
    assert (
        {*body(the_plan, 0).split("\n")[-1].split()} == {*body(the_plan, 1).split("\n")[-1].split()} == {*words.split()}
    )


def test_a_shell_without_variables_is_refused_in_the_one_row_that_has_it():
    spec = make_spec(step("s", "$(VLAUNCHER) x", shell="$(P)"), parameters=(parameter("P", ["/bin/sh", "python3"]),))
    assert problems(spec) == ["'$(VLAUNCHER)' of step 's' needs a shell's variables."]


def test_batch_types_of_rows_have_words_texts_and_files_of_their_own():
    made = step("s", "$(LAUNCHER) x", batch_type="$(P)", launcher_texts={"slurm": "-s", "flux": "-f=$(P)"})
    the_plan = plan(make_spec(made, parameters=(parameter("P", ["slurm", "flux", "local"]),)))
    assert [body(the_plan, node) for node in range(3)] == ["srun -N 1 -n 1 -s x", "flux run -N 1 -n 1 -f=flux x", " x"]
    assert [NodeText(the_plan, node).script_name() for node in range(3)] == [
        "s_P.slurm.slurm.sh", "s_P.flux.slurm.sh", "s_P.local.sh",
    ]  # fmt: skip


def test_a_step_whose_rows_do_not_differ_does_not_pay():
    spec = make_spec(
        step("plain", "$(LAUNCHER) $(P)", walltime="60"),
        step("unused", "true", resources={"bind": "$(P)"}),
        step("equal", "$(LAUNCHER) $(P)", walltime="$(W)"),
        batch=SLURM,
        parameters=(parameter("P", [1, 2, 3]), parameter("W", ["1:00", "60", "1:00"])),
    )
    for made in plan(spec).steps:
        assert (made.other_terms, made.terms_of_nodes) == ((), ()), made.name


def test_rows_that_say_the_same_share_their_terms():
    spec = make_spec(
        step("s", "$(LAUNCHER) $(P)", walltime="$(W)"),
        batch=SLURM,
        parameters=(parameter("P", range(6)), parameter("W", ["1:00", 60, 90] * 2)),
    )
    (made,) = plan(spec).steps
    assert [one.walltime_s for one in made.other_terms] == [60, 90]
    assert made.terms_of_nodes == (0, 0, 1, 0, 0, 1)
    assert made.walltime_s == 60


def test_terms_are_those_of_the_rows_that_are_run():
    # Given rows of which the first two have one label, so that the second is left out
    made = step("s", walltime="$(P)")
    the_plan = plan(make_spec(made, parameters=(parameter("P", [10, 20, 30], ["a", "a", "b"]),)))
    assert terms(the_plan, "walltime_s") == [10, 30]
    assert len(the_plan.steps[0].other_terms) == 2


def test_rows_of_one_walltime_share_a_class_with_other_steps_of_it():
    spec = make_spec(
        step("a", walltime="$(P)"),
        step("b", walltime="60"),
        step("c"),
        step("d", walltime="1:00", resources={"procs": 2}),
        parameters=(parameter("P", [60, 3600, "0"]),),
    )
    the_plan = plan(spec)
    assert terms(the_plan, "resource_class") == [0, 1, 2, 0, 2, 3]
    assert the_plan.class_walltimes_s() == [60, 3600, 0, 60]


def test_rows_that_need_different_resources_are_in_different_classes():
    made = step("s", resources={"procs": "$(P)", "cores per task": 2}, named_resources={"licenses/x": "$(L)"})
    parameters = (parameter("P", [1, 2, 1, 1]), parameter("L", [1, 1, 3, 1], ["a", "b", "c", "d"]))
    the_plan = plan(make_spec(made, parameters=parameters))
    assert terms(the_plan, "resource_class") == [0, 1, 2, 0]
    assert [one.text for one in the_plan.class_demands()] == [
        "cpus=2, licenses/x=1", "cpus=4, licenses/x=1", "cpus=2, licenses/x=3",
    ]  # fmt: skip


def test_a_thousand_needs_are_few_classes_and_none_promises_too_little():
    made = step("s", resources={"procs": "$(P)"})
    the_plan = plan(make_spec(made, parameters=(parameter("P", range(1, 1001)),)))
    largest = the_plan.class_demands()
    assert len(largest) < CLASSES_MOST
    for number, demand in zip(terms(the_plan, "resource_class"), terms(the_plan, "demand"), strict=True):
        assert demand.cpus <= largest[number].cpus <= max(demand.cpus * 1.2, demand.cpus + 1)


@pytest.mark.parametrize(
    ("run", "text"),
    [
        ({}, "cpus=1"),
        ({"procs": 2, "cores per task": 4}, "cpus=8"),
        ({"nodes": 2}, "cpus=2"),
        ({"procs": 2, "gpus per task": 2}, "cpus=2, gpus=4"),
        ({"procs": 2, "gpus per task": 2, "gpus": 3}, "cpus=2, gpus=3"),
        ({"exclusive": "yes"}, "cpus=1, exclusive"),
    ],
)
def test_what_a_sample_takes_of_a_worker(run, text):
    (made,) = plan(make_spec(step("s", resources=run))).steps
    assert made.demand.text == text


def test_a_thousand_walltimes_are_few_classes_and_none_promises_too_little():
    seconds = [1 + 97 * row for row in range(1000)]
    the_plan = plan(make_spec(step("s", walltime="$(P)"), parameters=(parameter("P", seconds),)))
    longest = the_plan.class_walltimes_s()
    assert CLASSES_MOST / 2 < len(longest) < 2 * CLASSES_MOST
    assert terms(the_plan, "walltime_s") == seconds
    for number, walltime_s in zip(terms(the_plan, "resource_class"), seconds, strict=True):
        assert walltime_s <= longest[number] <= max(walltime_s * 1.2, walltime_s + 1)


def test_a_parameter_that_only_a_walltime_uses_makes_nodes():
    made = plan(make_spec(step("s", walltime="$(P)"), parameters=(parameter("P", [1, 2]),)))
    assert [NodeText(made, node).instance_name for node in (0, 1)] == ["s_P.1", "s_P.2"]


def test_a_plan_whose_rows_differ_survives_the_wire():
    made = row_by_row([1, 2], walltime="$(P)", shell="/bin/$(P)")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Plan) == made


@pytest.mark.parametrize("name", ["nodes", "procs"])
def test_local_steps_of_many_processes_are_a_warning_where_there_is_no_mpiexec(tmp_path, name):
    (tmp_path / "mpiexec").write_text("")
    (tmp_path / "mpiexec").chmod(0o755)
    spec = make_spec(step("s", "$(LAUNCHER) x", resources={name: 4}), step("t", "x", resources={name: 4}))
    (warning,) = plan(spec, environment={"PATH": ""}).warnings
    assert "Step 's' asks for 4 processes, and there is no 'mpiexec' on PATH" in warning
    assert plan(spec, environment={"PATH": str(tmp_path)}).warnings == ()


def test_words_and_numbers_of_samples_may_be_variables():
    samples = Samples(text("s.npy"), (text("$(L)"),), settings={"level_max_dirs": text("$(N)"), "files": text("$(F)")})
    variables = {"L": "X Y", "N": "0x3", "F": "full"}
    made = make_spec(step("s", "$(X) $(Y)"), samples=samples, variables=variables)
    assert compile_plan(resolved(made), table(9, ["X", "Y"])).level_max_dirs == 3
