"""`$(LAUNCHER)` and `$(VLAUNCHER)` in scripts: what the step has, what a use asks for, which file the script is."""

from __future__ import annotations

import pytest

from mrun.engine.spec.model import Batch, Text
from mrun.engine.steps.launching import assignment, assigns
from mrun.engine.steps.render import NodeText

from .specs import body, make_spec, parameter, plan, problems, step

NODES, PROCS, CORES, GPUS = "${MERLIN_NODES}", "${MERLIN_PROCS}", "${MERLIN_CORES}", "${MERLIN_GPUS}"


def launched(batch_type: str, cmd: str = "$(LAUNCHER) run", resources=None, environment=None, **run) -> str:
    """The script of a step of that type."""
    made = step("s", cmd, resources=resources or {}, **run)
    return body(plan(make_spec(made, batch=Batch(type=Text(batch_type))), environment=environment or {"PATH": ""}))


@pytest.mark.parametrize(
    ("batch_type", "run", "expected"),
    [
        ("slurm", {"resources": {"nodes": 2, "procs": 8}}, "srun -N 2 -n 8 run"),
        ("slurm", {"resources": {"nodes": 2}}, "srun -N 2 -n 2 run"),
        ("slurm", {"resources": {"procs": 8}}, "srun -n 8 run"),
        ("slurm", {}, "srun -N 1 -n 1 run"),
        ("slurm", {"resources": {"procs": 2, "exclusive": "yes"}}, "srun -n 2 --exclusive run"),
        ("slurm", {"resources": {"procs": 2, "exclusive": "no"}}, "srun -n 2 run"),
        ("slurm", {"resources": {"procs": 2}, "walltime": "2:14:03:04"}, "srun -n 2 -t 62:03:04 run"),
        ("slurm", {"resources": {"procs": 2}, "walltime": "5400"}, "srun -n 2 -t 01:30:00 run"),
        ("slurm", {"resources": {"procs": 2}, "walltime": "0"}, "srun -n 2 run"),
        ("slurm", {"resources": {"procs": 2}, "launcher_texts": {"slurm": "--mpi=pmi2 -o x"}},
         "srun -n 2 --mpi=pmi2 -o x run"),
        ("slurm", {"resources": {"procs": 2}, "launcher_texts": {"flux": "-o x"}}, "srun -n 2 run"),
        ("slurm", {"resources": {"cores per task": 3, "gpus per task": 1, "gpus": 4}},
         "srun -N 1 -n 1 -c 3 --gpus-per-task 1 --gpus 4 run"),
        ("lsf-srun", {"resources": {"procs": 2}, "launcher_texts": {"slurm": "-x", "lsf": "-y"}}, "srun -n 2 -x run"),
        ("flux", {"resources": {"procs": 4}, "walltime": "1:30:00"}, "flux run -n 4 -t 5400.0s run"),
        ("flux", {"resources": {"procs": 4, "gpus per task": 2}, "launcher_texts": {"flux": "-o mpi=none"}},
         "flux run -n 4 -g 2 -o mpi=none run"),
        ("lsf", {"resources": {"nodes": 2, "procs": 8}}, "jsrun --np 8 --nrs 2 -b rs -d plane:4 -X 1 run"),
        ("lsf", {"resources": {"nodes": 2, "num resource set": 4, "bind": "none", "launch distribution": "packed",
                               "exit_on_error": 0, "gpus per task": 1, "cores per task": 7},
                 "launcher_texts": {"lsf": "-M -gpu"}},
         "jsrun --np 2 --nrs 4 -b none -d packed -X 0 -g 1 -c 7 -M -gpu run"),
        ("pbs", {"resources": {"procs": 4}, "launcher_texts": {"pbs": "--map-by node"}},
         "mpiexec -n 4 --map-by node run"),
        ("local", {"resources": {"procs": 4}}, " run"),
    ],
)  # fmt: skip
def test_what_stands_for_the_launcher(batch_type, run, expected):
    assert launched(batch_type, **run) == expected


@pytest.mark.parametrize(
    ("brackets", "expected"),
    [
        ("", "srun -N 4 -n 16 run"),
        ("[4p]", "srun -N 4 -n 4 run"),
        ("[2p]", "srun -N 2 -n 2 run"),
        ("[2n]", "srun -N 2 -n 16 run"),
        ("[2n,4p]", "srun -N 2 -n 4 run"),
        ("[4p, 2n]", "srun -N 2 -n 4 run"),
        ("[2, 4]", "srun -N 2 -n 4 run"),
        ("[3]", "srun -N 3 -n 3 run"),
        ("[16p]", "srun -N 4 -n 16 run"),
    ],
)
def test_brackets_say_what_one_use_takes(brackets, expected):
    assert launched("slurm", f"$(LAUNCHER){brackets} run", {"nodes": 4, "procs": 16}) == expected


@pytest.mark.parametrize("batch_type", ["local", "slurm", "flux", "lsf", "lsf-srun", "pbs"])
@pytest.mark.parametrize(
    ("brackets", "resources"),
    [("[17p]", {"nodes": 4, "procs": 16}),
     ("[5n,4p]", {"nodes": 4, "procs": 16}), ("[5, 4]", {"nodes": 4, "procs": 16}),
     ("[2p]", {}), ("[2n]", {"procs": 16}), ("[3p]", {"nodes": 2})],
)  # fmt: skip
@pytest.mark.parametrize("token", ["LAUNCHER", "VLAUNCHER"])
def test_more_than_the_step_has_is_an_error(token, batch_type, brackets, resources):
    made = step("s", f"$({token}){brackets} x", resources=resources, batch_type=batch_type)
    assert problems(make_spec(made)) == [f"'$({token}){brackets}' asks for more nodes or procs than the step has."]


def test_each_use_of_a_script_and_of_restart_has_its_own_words():
    made = step("s", "$(LAUNCHER)[1p] a\n$(LAUNCHER) b", restart="$(LAUNCHER)[2p] c", resources={"procs": 4})
    the_plan = plan(make_spec(made, batch=Batch(type=Text("slurm"))))
    assert body(the_plan) == "srun -n 1 a\nsrun -n 4 b"
    assert body(the_plan, is_restart=True) == "srun -n 2 c"


def test_a_launchers_own_text_may_differ_from_row_to_row():
    made = step("s", "$(LAUNCHER) x", launcher_texts={"slurm": "--tag=$(P)"}, batch_type="slurm")
    the_plan = plan(make_spec(made, parameters=(parameter("P", ["a", "b"]),)))
    assert body(the_plan, 1) == "srun -N 1 -n 1 --tag=b x"


@pytest.mark.parametrize(
    ("batch_type", "resources", "key"),
    [("flux", {"gpus": 4}, "gpus"), ("slurm", {"bind": "rs"}, "bind"), ("pbs", {"cores per task": 2}, "cores per task"),
     ("slurm", {"tasks per rs": "2"}, "tasks per rs"), ("pbs", {"exclusive": "yes"}, "exclusive")],
)  # fmt: skip
def test_resources_that_a_launcher_has_no_flag_for_are_a_warning(batch_type, resources, key):
    made = step("s", "$(LAUNCHER) x", resources=resources, batch_type=batch_type)
    (warning,) = plan(make_spec(made)).warnings
    assert warning.endswith(f"'{key}' of step 's' has no effect with batch type '{batch_type}'.")


@pytest.mark.parametrize("key", ["qos", "reservation", "priority", "nested"])
def test_what_is_meant_for_a_job_is_no_warning(key):
    assert plan(make_spec(step("s", "$(LAUNCHER) x", resources={key: "1"}, batch_type="slurm"))).warnings == ()


@pytest.mark.parametrize(
    ("batch_type", "expected"),
    [
        ("slurm", f"srun -N {NODES} -n {PROCS} -c {CORES} run"),
        ("flux", f"flux run -N {NODES} -n {PROCS} -c {CORES} run"),
        ("lsf", f"jsrun --np {PROCS} --nrs {NODES} -b rs -d plane:$(({PROCS} / {NODES})) -X 1 -c {CORES} run"),
        ("pbs", f"mpiexec -n {PROCS} run"),
        ("local", " run"),
    ],
)
def test_the_variable_launcher_takes_its_numbers_from_variables(batch_type, expected):
    defaults = "MERLIN_NODES=1\nMERLIN_PROCS=1\nMERLIN_CORES=1\nMERLIN_GPUS=0\n"
    assert launched(batch_type, "$(VLAUNCHER) run") == defaults + expected


@pytest.mark.parametrize(
    ("cmd", "run", "expected"),
    [
        # the step's own numbers are the defaults
        ("$(VLAUNCHER) x", {"resources": {"nodes": 2, "procs": 8, "cores per task": 3, "gpus per task": 1}},
         "MERLIN_NODES=2\nMERLIN_PROCS=8\nMERLIN_CORES=3\nMERLIN_GPUS=1\n"
         f"srun -N {NODES} -n {PROCS} -c {CORES} --gpus-per-task {GPUS} x"),
        # what the script sets has no default
        ("MERLIN_NODES=4\nexport MERLIN_PROCS=16\n$(VLAUNCHER) x", {},
         "MERLIN_CORES=1\nMERLIN_GPUS=0\nMERLIN_NODES=4\nexport MERLIN_PROCS=16\n"
         f"srun -N {NODES} -n {PROCS} -c {CORES} x"),
        ("MERLIN_NODES=1 MERLIN_PROCS=1 MERLIN_CORES=1\nMERLIN_GPUS=2\n$(VLAUNCHER) x", {},
         "MERLIN_NODES=1 MERLIN_PROCS=1 MERLIN_CORES=1\nMERLIN_GPUS=2\n"
         f"srun -N {NODES} -n {PROCS} -c {CORES} --gpus-per-task {GPUS} x"),
        # a comment sets nothing
        ("# MERLIN_NODES=4 MERLIN_PROCS=4 MERLIN_CORES=4 MERLIN_GPUS=4\n$(VLAUNCHER) x", {},
         "MERLIN_NODES=1\nMERLIN_PROCS=1\nMERLIN_CORES=1\nMERLIN_GPUS=0\n"
         "# MERLIN_NODES=4 MERLIN_PROCS=4 MERLIN_CORES=4 MERLIN_GPUS=4\n"
         f"srun -N {NODES} -n {PROCS} -c {CORES} x"),
        # nodes alone are procs, too; brackets are numbers; walltime and text as for LAUNCHER
        ("$(VLAUNCHER)[1n] x", {"resources": {"nodes": 2}, "walltime": "60", "launcher_texts": {"slurm": "-l"}},
         "MERLIN_NODES=2\nMERLIN_PROCS=2\nMERLIN_CORES=1\nMERLIN_GPUS=0\n"
         f"srun -N 1 -n {PROCS} -c {CORES} -t 00:01:00 -l x"),
        ("$(VLAUNCHER) x", {"shell": "/bin/csh"},
         "set MERLIN_NODES = 1\nset MERLIN_PROCS = 1\nset MERLIN_CORES = 1\nset MERLIN_GPUS = 0\n"
         f"srun -N {NODES} -n {PROCS} -c {CORES} x"),
    ],
)  # fmt: skip
def test_defaults_of_the_variable_launcher(cmd, run, expected):
    assert launched("slurm", cmd, **run) == expected


def test_the_variable_launcher_needs_a_shell():
    messages = problems(make_spec(step("s", "$(VLAUNCHER) x", shell="/usr/bin/env python3", batch_type="slurm")))
    assert messages == ["'$(VLAUNCHER)' of step 's' needs a shell's variables."]


def test_local_scripts_that_set_their_procs_get_mpiexec_where_there_is_one(tmp_path):
    (tmp_path / "mpiexec").write_text("")
    (tmp_path / "mpiexec").chmod(0o755)
    environment = {"PATH": str(tmp_path)}
    cmd = "MERLIN_NODES=1 MERLIN_PROCS=4 MERLIN_CORES=1 MERLIN_GPUS=0\n$(VLAUNCHER) x"
    assert launched("local", cmd, environment=environment).endswith(f"\nmpiexec -n {PROCS} x")
    assert launched("local", "$(VLAUNCHER) x", environment=environment).endswith("\n x")


@pytest.mark.parametrize(
    ("script", "is_assigned"),
    [("N=4", True), ("  export N=4", True), ("set N = 4", True), ("setenv N 4", True), ("set -x N 4", True),
     ("a; N=$(X)", True), ("# N=4", False), ("echo $N", False), ("[ $N == 4 ]", False), ("MY_N=4", False),
     ("XN=4", False), ("", False)],
)  # fmt: skip
def test_which_scripts_set_a_variable(script, is_assigned):
    assert assigns(script, "N") is is_assigned


@pytest.mark.parametrize(
    ("shell", "line"), [("bash", "N=1\n"), ("sh", "N=1\n"), ("tcsh", "set N = 1\n"), ("python3", ""), ("fish", "")]
)
def test_how_a_shell_sets_a_variable(shell, line):
    assert assignment(shell, "N", "1") == line


@pytest.mark.parametrize(
    ("batch_type", "own_type", "script", "restart"),
    [
        ("local", None, "s.sh", "s.restart.sh"),
        ("slurm", None, "s.slurm.sh", "s.restart.slurm.sh"),
        ("flux", None, "s.slurm.sh", "s.restart.slurm.sh"),
        ("lsf", None, "s.slurm.sh", "s.restart.slurm.sh"),
        ("lsf-srun", None, "s.slurm.sh", "s.restart.slurm.sh"),
        ("pbs", None, "s.slurm.sh", "s.restart.slurm.sh"),
        ("slurm", "local", "s.sh", "s.restart.sh"),
        ("local", "flux", "s.slurm.sh", "s.restart.slurm.sh"),
    ],
)
def test_scripts_of_every_scheduler_have_merlins_name(batch_type, own_type, script, restart):
    made = step("s", "true", restart="true", **({"batch_type": own_type} if own_type else {}))
    text = NodeText(plan(make_spec(made, batch=Batch(type=Text(batch_type)))), 0)
    assert (text.script_name(), text.script_name(is_restart=True)) == (script, restart)


def test_a_steps_own_type_comes_first_and_may_be_a_variable():
    made = step("s", "$(LAUNCHER) x", batch_type="$(T)")
    spec = make_spec(made, batch=Batch(type=Text("flux")), variables={"T": "slurm"})
    assert body(plan(spec)) == "srun -N 1 -n 1 x"


def test_a_type_that_a_variable_makes_wrong_is_an_error():
    assert problems(make_spec(step("s", batch_type="$(T)"), variables={"T": "slrum"})) == ["'slrum' is no batch type."]


def test_exclusive_that_a_variable_makes_wrong_is_an_error():
    made = step("s", resources={"exclusive": "$(T)"})
    assert problems(make_spec(made, variables={"T": "maybe"})) == ["exclusive must be yes or no, not 'maybe'."]


@pytest.mark.parametrize(
    ("batch_type", "cmd", "resources", "expected"),
    [
        ("slurm", "$(LAUNCHER) x", {"procs": "$(P)"}, ["srun -n 2 x", "srun -n 8 x"]),
        ("slurm", "$(LAUNCHER) x", {"nodes": "$(P)"}, ["srun -N 2 -n 2 x", "srun -N 8 -n 8 x"]),
        ("flux", "$(LAUNCHER) x", {"procs": "1$(P)", "cores per task": 2},
         ["flux run -n 12 -c 2 x", "flux run -n 18 -c 2 x"]),
        ("lsf", "$(LAUNCHER) x", {"nodes": 2, "procs": "$(P)"},
         [f"jsrun --np {p} --nrs 2 -b rs -d plane:{p // 2} -X 1 x" for p in (2, 8)]),
        ("slurm", "$(LAUNCHER)[2p] x", {"procs": "$(P)"}, ["srun -n 2 x", "srun -n 2 x"]),
        ("slurm", "$(LAUNCHER)[3p] x", {"procs": 3, "nodes": "$(P)"}, ["srun -N 2 -n 3 x", "srun -N 3 -n 3 x"]),
        ("pbs", "$(VLAUNCHER) x", {"procs": "$(P)"},
         [f"MERLIN_NODES=1\nMERLIN_PROCS={p}\nMERLIN_CORES=1\nMERLIN_GPUS=0\nmpiexec -n {PROCS} x" for p in (2, 8)]),
    ],
)  # fmt: skip
def test_resources_may_differ_from_row_to_row(batch_type, cmd, resources, expected):
    spec = make_spec(step("s", cmd, resources=resources, batch_type=batch_type), parameters=(parameter("P", [2, 8]),))
    the_plan = plan(spec)
    assert [body(the_plan, node) for node in range(len(the_plan.nodes))] == expected


def test_the_row_with_the_least_room_counts():
    made = step("s", "$(LAUNCHER)[4p] x", resources={"procs": "$(P)"}, batch_type="slurm")
    spec = make_spec(made, parameters=(parameter("P", [8, 2]),))
    assert problems(spec) == ["'$(LAUNCHER)[4p]' asks for more nodes or procs than the step has."]


def test_two_parameters_of_one_resource_go_row_by_row():
    made = step("s", "$(LAUNCHER) x", resources={"procs": "$(P)$(Q)", "nodes": "$(Q)"}, batch_type="slurm")
    the_plan = plan(make_spec(made, parameters=(parameter("P", [1, 2]), parameter("Q", [3, 4]))))
    assert [body(the_plan, node) for node in (0, 1)] == ["srun -N 3 -n 13 x", "srun -N 4 -n 24 x"]


def test_a_row_whose_number_is_none_is_told():
    made = step("s", "$(LAUNCHER) x", resources={"procs": "$(P)"})
    spec = make_spec(made, parameters=(parameter("P", [1, "many"]),))
    assert problems(spec) == ["procs must be a whole number of at least 1, not 'many'."]


def test_a_parameter_without_values_was_told_by_the_spec_room_and_causes_no_other_problem():
    made = step("s", "$(LAUNCHER)[1p] x", resources={"procs": "$(P)", "nodes": "$(P)"})
    assert problems(make_spec(made, parameters=(parameter("P", []),))) == []
