"""Templates, careful errors, launchers, classes: what compiling makes of steps."""

from __future__ import annotations

import msgspec
import pytest

from mrun.engine.errors import MrunError, SpecError
from mrun.engine.plan.model import Plan, Token, TokenKind
from mrun.engine.spec.model import Batch, GitDependency, Text
from mrun.engine.steps.compile import compile_plan
from mrun.engine.steps.durations import parse_walltime_s

from .specs import body, make_spec, parameter, plan, problems, resolved, step, table, text

WORKSPACE = "/area/study_20260304-050607"


@pytest.mark.parametrize(
    ("cmd", "hint"),
    [
        ("$(NOPE)", ""),
        ("$(SPECROT)", "Did you mean 'SPECROOT'?"),
        ("$(PP.LABEL)", "Did you mean 'PP.label'?"),
        ("$(PP.lable)", "Did you mean 'PP.label'?"),
        ("$(ohter.workspace)", "Did you mean 'other.workspace'?"),
    ],
)
def test_an_unknown_name_in_a_script_is_an_error_with_the_nearest_name(cmd, hint):
    spec = make_spec(step("s", f"one\n  two {cmd}"), step("other"), parameters=(parameter("PP", [1]),))
    with pytest.raises(SpecError) as caught:
        resolved(spec)
    (problem,) = caught.value.problems
    assert problem.message == f"'{cmd}' is not a known name."
    assert problem.hint.startswith(hint)
    assert "if the shell is to run it" in problem.hint
    assert (problem.path, problem.line, problem.column) == ("/specs/the.yaml", spec.steps[0].run.cmd.line + 1, 7)


@pytest.mark.parametrize("cmd", ["$(date)", "$(cat x)", "$(Mixed)", r"\$(NOPE)", "$((1 + 2))", "$(1)", "${NOPE} $NOPE"])
def test_what_is_the_shells_stays(cmd):
    assert body(plan(make_spec(step("s", cmd)))) == cmd


@pytest.mark.parametrize(
    ("made_step", "expected"),
    [
        (step("s", task_queue="$(date)"), "'$(date)' is not a known name."),
        (step("s", task_queue="$(X)"), "'$(X)' can't be used in task_queue of step 's': it has no value there."),
        (step("s", task_queue="$(WORKSPACE)"), "'$(WORKSPACE)' can't be used in task_queue"),
        (step("s", task_queue=" "), "The task_queue of step 's' is empty."),
        (step("s", walltime="soon"), "'soon' is not a walltime."),
        (step("s", resources={"procs": "many"}), "procs must be a whole number of at least 1, not 'many'."),
        (step("s", resources={"nodes": "$(P)x"}), "nodes must be a whole number of at least 1, not '1x'."),
        (step("s", "$(LAUNCHER)[4p]", resources={"procs": 2}), "'$(LAUNCHER)[4p]' asks for more nodes or procs"),
        (step("s", batch_type="slrum"), "'slrum' is no batch type."),
        (step("s", mode="many"), "The mode of step 's' must be one of inside, step, job, not 'many'."),
        (step("s", named_resources={"a/x": "few"}), "resources.a/x of step 's' must be a whole number of at least 1"),
        (step("s", named_resources={"cpus": 1}), "resources of step 's' can't be called 'cpus'."),
        (step("s", named_resources={"a,b": 1}), "resources of step 's' can't be called 'a,b'."),
        (step("s", "$(MERLIN_PATHS_ALL)"), "'$(MERLIN_PATHS_ALL)' of 200000 samples is longer than any list"),
    ],
)
def test_what_compiling_refuses(made_step, expected):
    messages = problems(make_spec(made_step, parameters=(parameter("P", [1]),), columns=["X"]), count=200_000)
    assert any(message.startswith(expected) for message in messages), messages


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ({"batch": Batch(type=Text("fluks"))}, "'fluks' is no batch type."),
        (
            {"columns": ["X"], "samples_rest": {"settings": {"files": text("thin")}}},
            "'files' must be one of full, lean, packed, not",
        ),
        ({"columns": ["V"]}, "The column label 'V' is also a variable, a parameter or a name of mrun's own."),
        ({"columns": ["v"]}, "The column label 'v' is also a variable"),
        ({"columns": ["P"]}, "The column label 'P' is also a variable"),
        ({"columns": ["X", "X"]}, "There are two columns 'X'."),
        (
            {"columns": ["X"], "samples_rest": {"settings": {"level_max_dirs": text("1")}}},
            "level_max_dirs must be at least 2, not 1.",
        ),
        (
            {"columns": ["X"], "samples_rest": {"generate": Text("$(X)", 1, 1)}},
            "'$(X)' can't be used in merlin.samples",
        ),
        (
            {"git_dependencies": (GitDependency(Text("MERLIN_INFO"), Text("p"), Text("u")),)},
            "'MERLIN_INFO' is a name of mrun's own, a dependency can't have it.",
        ),
        (
            {"git_dependencies": (GitDependency(Text("g"), Text("p"), Text("$(NOPE)")),)},
            "'$(NOPE)' is not a known name.",
        ),
    ],
)
def test_what_a_study_can_not_have(rest, expected):
    (message,) = problems(make_spec(variables={"V": "1"}, parameters=(parameter("P", [1]),), **rest))
    assert message.startswith(expected)


@pytest.mark.parametrize("token", ["MERLIN_SAMPLE_ID", "MRUN_SAMPLE_PATH", "MERLIN_SAMPLE_VECTOR", "MERLIN_GLOB_PATH"])
def test_sample_tokens_need_samples(token):
    assert problems(make_spec(step("s", f"$({token})"))) == [f"'$({token})' is used, and the study has no samples."]


def test_all_problems_are_told_at_once_in_file_order():
    spec = make_spec(
        step("a", "$(ONE)\n$(TWO)"), step("b", "$(THREE)", ["zzz"]), variables={"V": "$(W)"}, columns=["X", "X"]
    )
    with pytest.raises(SpecError) as caught:
        resolved(spec)
    found = caught.value.problems
    assert len(found) == 6
    assert [(one.line, one.column) for one in found] == sorted((one.line, one.column) for one in found)


@pytest.mark.parametrize(
    ("cmd", "restart", "uses"),
    [
        ("true", None, False),
        ("$(X)", None, True),
        ("$(x)", None, True),
        ("true", "$(X)", True),
        ("$(MERLIN_SAMPLE_ID)", None, True),
        ("$(merlin_sample_id)", None, True),
        ("$(MRUN_SAMPLE_PATH)", None, True),
        ("$(MERLIN_SAMPLE_VECTOR)", None, True),
        ("$(MERLIN_SAMPLE_NAMES)", None, False),
        ("$(MERLIN_GLOB_PATH)", None, False),
        ("$(MERLIN_PATHS_ALL)", None, False),
        ("$(V)", None, True),
        (r"\$(X)", None, False),
    ],
)
def test_which_steps_are_sample_steps(cmd, restart, uses):
    rest = {"restart": restart} if restart else {}
    assert (
        plan(make_spec(step("s", cmd, **rest), variables={"V": "<$(X)>"}, columns=["X"])).steps[0].uses_samples is uses
    )


@pytest.mark.parametrize(
    ("cmd", "count", "expected"),
    [
        ("$(MERLIN_GLOB_PATH)", 26, "*/*/"),
        ("$(MERLIN_GLOB_PATH)", 1, ""),
        ("$(MERLIN_PATHS_ALL)", 3, "00 01 02"),
        ("$(MERLIN_PATHS_ALL)", 1, ""),
        ("$(MRUN_SAMPLE_NAMES)", 3, "X Y"),
        ("$(MERLIN_SAMPLE_VECTOR)", 3, "1 b c"),
        ("$(Y)|$(MERLIN_SAMPLE_ID)|$(MERLIN_SAMPLE_PATH)", 3, "b c|2|02"),
        ("$(MERLIN_SAMPLE_PATH)", 1, ""),
    ],
)
def test_tokens_of_samples(cmd, count, expected):
    made = plan(make_spec(step("s", cmd), columns=["X", "Y"]), count=count)
    assert body(made, sample=min(2, count - 1), values=("1", "b c")) == expected


def test_templates_hold_nothing_that_could_be_text():
    spec = make_spec(
        step("a", "x$(V)y$(WORKSPACE)z$(P.name)$(EMPTY)", depends=["b_*"]),
        step("b", "$(V)$(P)$(b.workspace)$(WORKSPACE)$(a.workspace)$(X)$(EMPTY)"),
        variables={"V": "1", "EMPTY": ""},
        parameters=(parameter("P", [1, 2]),),
        columns=["X"],
    )
    a, b = plan(spec).steps
    assert a.cmd == ("x1y", Token(TokenKind.WORKSPACE), "zP")
    assert b.cmd == (
        "1",
        Token(TokenKind.PARAMETER, "P"),
        Token(TokenKind.WORKSPACE),
        Token(TokenKind.WORKSPACE),
        Token(TokenKind.STEP_WORKSPACE, "a"),
        Token(TokenKind.SAMPLE_VALUE, "0"),
    )
    assert a.restart is None


def test_workspaces_of_steps_that_are_not_waited_for_are_a_warning():
    spec = make_spec(
        step("a"),
        step("b", "$(a.workspace) $(b.workspace)"),
        step("c", "$(a.workspace)", ["d"]),
        step("d", "", ["a_*"]),
    )
    (warning,) = plan(spec).warnings
    assert warning.startswith("/specs/the.yaml:")
    assert warning.endswith("Step 'b' names the workspace of 'a', and does not wait for it.")


def test_the_local_launcher_is_nothing_or_mpiexec(tmp_path):
    program = tmp_path / "mpiexec"
    program.write_text("")
    program.chmod(0o755)
    cmd = "$(LAUNCHER) a\n$(LAUNCHER)[1p] b\n$(LAUNCHER)[2n,4p] c\n$(LAUNCHER)[1, 2] d"
    spec = make_spec(step("s", cmd, resources={"nodes": 2, "procs": "0x4"}), step("t", "$(LAUNCHER) a"))
    with_mpi = plan(spec, environment={"PATH": str(tmp_path)})
    assert body(with_mpi) == "mpiexec -n 4 a\n b\nmpiexec -n 4 c\nmpiexec -n 2 d"
    assert body(with_mpi, 1) == " a"
    assert body(plan(spec, environment={"PATH": ""})) == " a\n b\n c\n d"


def test_steps_with_equal_needs_share_a_class():
    spec = make_spec(
        step("a"),
        step("b", resources={"gpus": "$(N)"}),
        step("c", resources={"gpus": 1}),
        step("d", walltime="1:00"),
        step("e", walltime="60"),
        step("f"),
        variables={"N": "1"},
    )
    made = plan(spec)
    assert [one.resource_class for one in made.steps] == [0, 1, 1, 2, 2, 0]
    assert made.steps[3].walltime_s == 60


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("90", 90), ("1:30", 90), ("10:30:00", 37800), ("2:14:03:04", 223384), ("1.5", 1.5), ("0", None)],
)
def test_walltimes(value, seconds):
    assert parse_walltime_s(value) == seconds


@pytest.mark.parametrize("value", ["", "x", "1:2:3:4:5", "-1", "nan", "inf", "1::2"])
def test_what_is_no_walltime(value):
    with pytest.raises(ValueError, match=r"."):
        parse_walltime_s(value)


@pytest.mark.parametrize(
    ("shell", "first_line"),
    [
        ("/bin/bash", "source /env setup.sh"),
        ("/bin/sh", ". /env setup.sh"),
        ("/usr/bin/env python3", "true"),
        ("/usr/bin/env -S bash -l", "source /env setup.sh"),
    ],
)
def test_sources_are_sourced_first_where_the_shell_can(shell, first_line):
    made = plan(make_spec(step("s", shell=shell), sources=(text("$(V) setup.sh"),), variables={"V": "/env"}))
    assert body(made).split("\n")[0] == first_line
    assert bool(made.warnings) == (first_line == "true")


def test_what_a_step_says_is_in_the_plan():
    (made,) = plan(make_spec(step("s", max_retries=2, retry_delay=0.5, on_failure="skip", max_losses=0, chunk=7))).steps
    assert (made.max_retries, made.retry_delay_s, made.on_failure, made.max_losses, made.chunk) == (
        2,
        0.5,
        "skip",
        0,
        7,
    )


def test_a_plan_survives_the_wire():
    made = plan(make_spec(step("s", "$(P) $(X)"), parameters=(parameter("P", [1]),), columns=["X"]))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Plan) == made


def test_a_plan_is_not_compiled_without_its_table():
    spec = make_spec(columns=["X"])
    with pytest.raises(MrunError):
        compile_plan(resolved(spec))
    with pytest.raises(MrunError):
        compile_plan(resolved(spec), table(3, ["Y"]))
