"""`--pgen`: parameters from a user's Python file."""

from __future__ import annotations

import sys

import pytest

from mrun.engine.errors import SpecError
from mrun.engine.language.variables import variable_values
from mrun.engine.spec.dump import dump_spec
from mrun.engine.spec.load import load_spec
from mrun.engine.spec.model import Text
from mrun.engine.steps.generated import with_generated

from .specs import body, make_spec, parameter, plan, step


def generated(tmp_path, code: str, variables=None, **arguments: str):
    """Name → (values, labels) of the table, and the spec."""
    path = tmp_path / "pgen.py"
    path.write_text(code)
    made = make_spec(step("s", "$(P)"), parameters=(parameter("OLD", [1]),))
    spec = with_generated(made, str(path), arguments, variables or {})
    return {one.name: (one.values, one.labels) for one in plan(spec).parameters}, spec


MAESTRO = """
from maestrowf.datastructures.core import ParameterGenerator

def get_custom_generator(env, **kwargs):
    made = ParameterGenerator()
    made.add_parameter("P", [1, 2.5], "P.%%")
    made.add_parameter("Q", ["a", "b"], ["first", "second"], "the Q")
    return made
"""
DUCK = """
class Made:
    parameters = {"P": (1, 2.5), "Q": ["a", "b"]}
    labels = {"P": "P.%%", "Q": ["first", "second"]}
    names = {"P": "P", "Q": "the Q"}

def get_custom_generator(env, **kwargs):
    return Made()
"""
PLAIN = """
def get_custom_generator(env, **kwargs):
    return {"P": {"values": [1, 2.5], "label": "P.%%"},
            "Q": {"values": ["a", "b"], "label": ["first", "second"], "name": "the Q"}}
"""
BLOCK = PLAIN.replace("return {", 'return {"global.parameters": {') + "}"


@pytest.mark.parametrize("code", [MAESTRO, DUCK, PLAIN, BLOCK])
def test_the_table_may_be_maestros_or_a_plain_mapping(tmp_path, code):
    table, spec = generated(tmp_path, code)
    assert table == {"P": (("1", "2.5"), ("P.1", "P.2.5")), "Q": (("a", "b"), ("first", "second"))}
    assert spec.parameters[1].shown_name == Text("the Q")
    assert body(plan(spec), 1) == "2.5"
    assert "maestrowf" not in sys.modules


@pytest.mark.parametrize(
    ("values", "expected"),
    [("range(3)", ("0", "1", "2")), ("numpy.linspace(0, 1, 3)", ("0.0", "0.5", "1.0")),
     ("[True, None]", ("True", "None")),
     ("(str(i) for i in range(2))", ("0", "1"))],
)  # fmt: skip
def test_values_are_their_texts(tmp_path, values, expected):
    table, _ = generated(
        tmp_path, f"import numpy\ndef get_custom_generator(env):\n    return {{'P': {{'values': {values}}}}}"
    )
    assert table["P"] == (expected, tuple(f"P.{value}" for value in expected))


def test_the_function_gets_variables_and_arguments(tmp_path):
    code = """
def get_custom_generator(env, **kwargs):
    print("for people")
    assert env.find("NOPE") is None
    return {"P": {"values": [env.find("N").value, env["N"], kwargs["SEED"]], "label": "P.%%"}}
"""
    table, _ = generated(tmp_path, code, {"N": "7"}, SEED="a:b")
    assert table["P"][0] == ("7", "7", "a:b")


def test_what_it_prints_is_not_data(tmp_path, capsys):
    generated(tmp_path, PLAIN.replace("    return", "    print('hello')\n    return"))
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize(
    ("code", "message", "line"),
    [
        ("x = 1", "has no function get_custom_generator(env, **kwargs)", 0),
        ("def get_custom_generator(env):\n    return 5", "returned int, which is no parameter table", 0),
        ("def get_custom_generator(env):\n    return {'P': [1]}", "returned a mapping that is no parameter table", 0),
        ("def get_custom_generator(env):\n    return {'P': {}}", "gives the parameter 'P' no list of values", 0),
        ("def get_custom_generator(env):\n    return {'P': {'values': 'abc'}}", "gives the parameter 'P' no list", 0),
        ("def get_custom_generator(env):\n    return {'P': {'values': [1], 'label': ['a', 'b']}}",
         "gives the parameter 'P' 1 values and 2 labels", 0),
        ("\ndef get_custom_generator(env):\n    return 1 / 0", "failed with ZeroDivisionError: division by zero", 3),
        ("def get_custom_generator(:", "failed with SyntaxError", 1),
        ("import nowhere_at_all", "failed with ModuleNotFoundError", 1),
    ],
)  # fmt: skip
def test_what_a_generator_does_wrong(tmp_path, code, message, line):
    with pytest.raises(SpecError) as caught:
        generated(tmp_path, code)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert (problem.path, problem.line) == (str(tmp_path / "pgen.py"), line)


def test_arguments_that_the_function_does_not_take_are_its_own_error(tmp_path):
    with pytest.raises(SpecError, match="failed with TypeError"):
        generated(tmp_path, "def get_custom_generator(env):\n    return {}", SEED="1")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SpecError, match="can't be read: No such file"):
        with_generated(make_spec(), str(tmp_path / "pgen.py"), {}, {})


def test_the_expanded_spec_holds_the_table(tmp_path):
    _, spec = generated(tmp_path, PLAIN)
    tree = {**spec.tree, "description": {"name": Text("x"), "description": Text("x")},
            "study": [{"name": Text("s"), "description": Text("x"), "run": {"cmd": Text("echo $(P)")}}]}  # fmt: skip
    (tmp_path / "again.yaml").write_text(dump_spec(tree))
    again, _ = load_spec(tmp_path / "again.yaml")
    assert [one.name.value for one in again.parameters] == ["P", "Q"]
    assert [value.value for value in again.parameters[0].values] == ["1", "2.5"]


def test_variables_are_put_into_one_another_for_it():
    spec = make_spec(variables={"A": "$(B)/x", "B": "1", "C": "$HOME", "D": "$(P)"})
    values = variable_values(spec, {"B": "2"}, {"HOME": "/h"})
    assert values == {"A": "2/x", "B": "2", "C": "/h", "D": "$(P)"}
