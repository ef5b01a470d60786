"""Variables, labels, --vars, the environment, and the place of a study."""

from __future__ import annotations

import msgspec
import pytest

from mrun.engine.errors import SpecError
from mrun.engine.spec.model import PathDependency, Text
from mrun.engine.steps.expanded import text_expander
from mrun.engine.steps.resolved import resolve_at

from .specs import body, make_spec, parameter, place, plan, problems, resolved, step, text

HOME = {"HOME": "/home/me", "DATA": "/data", "PATH": ""}


@pytest.mark.parametrize(
    ("variables", "cmd", "expected"),
    [
        ({"A": "1"}, "echo $(A)", "echo 1"),
        ({"A": "1"}, "echo $(a)", "echo 1"),
        ({"A": "x$(B)", "B": "y$(C)", "C": "z"}, "$(A)", "xyz"),
        ({"A": "$DATA/x"}, "$(A)", "/data/x"),
        ({"A": "${DATA}x"}, "$(A)", "/datax"),
        ({"A": "~/x"}, "$(A)", "/home/me/x"),
        ({"A": "x~"}, "$(A)", "x~"),
        ({"A": "$NOT_THERE"}, "$(A)", "$NOT_THERE"),
        ({}, "$DATA ${DATA} `x` ~", "$DATA ${DATA} `x` ~"),
        ({"A": r"\n\1\g<0>"}, "$(A)", r"\n\1\g<0>"),
        ({"A": "1"}, r"\$(A) $(A)", r"\$(A) 1"),
        ({"RUN": "$(LAUNCHER) sim $(X)"}, "$(RUN)", " sim 1.5"),
        ({}, "$(SPECROOT) $(OUTPUT_PATH) $(MERLIN_TIMESTAMP)", "/specs /area 20260304-050607"),
        ({"OUTPUT_PATH": "out"}, "$(OUTPUT_PATH)", "/area/out"),
        ({"OUTPUT_PATH": "$(ROOT)/out", "ROOT": "~"}, "$(OUTPUT_PATH)", "/home/me/out"),
        ({}, "$(MERLIN_INFO) $(MRUN_WORKSPACE)", "/area/study_20260304-050607/merlin_info /area/study_20260304-050607"),
        ({}, "$(MERLIN_SPEC_ORIGINAL_TEMPLATE)", "/area/study_20260304-050607/merlin_info/the.orig.yaml"),
        ({}, "$(MRUN_SPEC_EXECUTED_RUN)", "/area/study_20260304-050607/merlin_info/the.partial.yaml"),
        ({}, "$(MERLIN_SPEC_ARCHIVED_COPY)", "/area/study_20260304-050607/merlin_info/the.expanded.yaml"),
        ({}, "$(MERLIN_SUCCESS) $(MERLIN_RESTART) $(MERLIN_SOFT_FAIL) $(MERLIN_HARD_FAIL)", "0 100 101 102"),
        ({}, "$(MERLIN_RETRY) $(MRUN_STOP_WORKERS) $(MERLIN_RAISE_ERROR)", "104 105 106"),
        ({}, "$(date) $(cat x) $((1+2)) $(Mixed)", "$(date) $(cat x) $((1+2)) $(Mixed)"),
    ],
)
def test_variables_in_a_script(variables, cmd, expected):
    spec = make_spec(step("s", cmd), variables=variables, columns=["X"])
    assert body(plan(spec, environment=HOME)) == expected


def test_vars_come_before_env_and_may_hold_tokens():
    spec = make_spec(step("s", "$(A) $(L)"), variables={"A": "1", "B": "2"}, labels={"L": "3"})
    assert body(plan(spec, variables={"A": "x=$(B)", "L": "l"})) == "x=2 l"


@pytest.mark.parametrize(
    ("variables", "overrides", "expected"),
    [
        ({"A": "$(B)", "B": "$(A)"}, {}, ["Variables mention each other in a circle: A → B → A."]),
        ({"A": "$(A)"}, {}, ["Variables mention each other in a circle: A → A."]),
        ({"A": "1"}, {"B": "2"}, ["--vars sets 'B', which is neither a variable nor a label of env."]),
        ({"A": "1"}, {"SPECROOT": "2"}, ["'SPECROOT' is a name of mrun's own, --vars may not set it."]),
        (
            {"OUTPUT_PATH": "$(OUTPUT_PATH)/x"},
            {},
            ["'$(OUTPUT_PATH)' can't be used in OUTPUT_PATH: it has no value there."],
        ),
        (
            {"OUTPUT_PATH": "$(MERLIN_INFO)"},
            {},
            ["'$(MERLIN_INFO)' can't be used in OUTPUT_PATH: it has no value there."],
        ),
    ],
)
def test_wrong_variables_are_found_when_the_study_is_placed(variables, overrides, expected):
    with pytest.raises(SpecError) as caught:
        place(make_spec(variables=variables), variables=overrides)
    assert [problem.message for problem in caught.value.problems] == expected


@pytest.mark.parametrize(
    ("name", "workspace"),
    [("a", "/area/a_20260304-050607"), ("a $(V)", "/area/a_1.5_20260304-050607"), ("a/b", None), ("$(NO)", None)],
)
def test_the_workspace_is_named_after_the_study(name, workspace):
    spec = make_spec(name=name, variables={"V": "1.5"})
    if workspace:
        assert place(spec).workspace == workspace
    else:
        with pytest.raises(SpecError):
            place(spec)


def test_the_option_comes_before_the_output_path_of_env():
    spec = make_spec(step("s", "$(OUTPUT_PATH)"), variables={"OUTPUT_PATH": "/env"})
    chosen = place(spec, output_path="opt")
    assert (chosen.output_path, chosen.workspace) == ("/area/opt", "/area/opt/study_20260304-050607")
    assert body(plan(spec, output_path="opt")) == "/area/opt"


def test_a_place_with_another_workspace_moves_everything():
    spec = make_spec(step("s", "$(MERLIN_INFO) $(WORKSPACE)"))
    moved = msgspec.structs.replace(place(spec), workspace="/area/other")
    assert moved.info_dir == "/area/other/merlin_info"
    assert text_expander(resolve_at(spec, moved))(spec.steps[0].run.cmd) == "/area/other/merlin_info $(WORKSPACE)"


def test_a_place_does_not_show_the_environment():
    assert "secret" not in repr(place(make_spec(), environment={"PASSWORD": "secret"}))


def test_labels_may_mention_parameters_and_bring_them_along():
    spec = make_spec(step("s", "$(L)"), labels={"L": "out_$(P.label)_$(P)"}, parameters=(parameter("P", [7, 8]),))
    made = plan(spec)
    assert [body(made, node) for node in (0, 1)] == ["out_P.7_7", "out_P.8_8"]


def test_an_unset_environment_variable_is_a_warning_and_so_is_a_command_of_the_same_name(tmp_path):
    program = tmp_path / "id"
    program.write_text("")
    program.chmod(0o755)
    spec = make_spec(step("s", "$(id) $(x)"), variables={"ID": "$NOPE"}, columns=["X"])
    warnings = resolved(spec, environment={"PATH": str(tmp_path)}).warnings
    assert ["NOPE" in warning or "also a command" in warning for warning in warnings] == [True, True]


def test_an_unknown_name_in_a_variable_is_said_once_and_there():
    spec = make_spec(step("s", "$(A) $(A)"), variables={"A": "x $(NOWHERE)"})
    with pytest.raises(SpecError) as caught:
        plan(spec)
    (problem,) = caught.value.problems
    assert (problem.message, problem.line) == ("'$(NOWHERE)' is not a known name.", spec.variables["A"].line)
    assert problem.column == 3


def test_path_dependencies_are_values_and_must_be_there(tmp_path):
    def spec_of(path):
        dependency = PathDependency(text("MESH"), text(path))
        return make_spec(step("s", "$(MESH)"), path_dependencies=(dependency,))

    assert body(plan(spec_of(str(tmp_path)))) == str(tmp_path)
    assert problems(spec_of("/not/there")) == ["The dependency 'MESH' is missing: there is no '/not/there'."]


def test_texts_of_the_copies_keep_what_depends_on_step_row_or_sample():
    spec = make_spec(step("s", "~ $(V) $(P) $(X) $(LAUNCHER)"), variables={"V": "~"}, columns=["X"],
                     parameters=(parameter("P", [1]),))  # fmt: skip
    expand = text_expander(resolved(spec, environment={"HOME": "/h"}))
    assert expand(spec.steps[0].run.cmd) == "~ /h $(P) $(X) $(LAUNCHER)"
    assert expand(Text("~/$(V)")) == "/h//h"


def test_the_copies_show_what_vars_set():
    spec = make_spec(variables={"A": "1", "B": "2"})
    expand = text_expander(resolved(spec, variables={"A": "$(B)!"}))
    assert expand(spec.variables["A"]) == "2!"
