"""A dumped tree is read back as the same texts, whatever the texts are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrun.engine.spec.dump import dump_spec
from mrun.engine.spec.load import load_spec
from mrun.engine.spec.model import Text
from mrun.engine.spec.problems import Problems
from mrun.engine.spec.yaml_tree import read_tree, to_tree

NASTY = [
    "", " ", "\n", "\n\n", "\t", "~", "null", "Null", "true", "True", "no", "off", "010", "0x10", "1_000",
    "1e3", "1.50", ".5", "-.inf", ".nan", "10:30:00", "2020-01-01", "=", "<<", "-", "- a", "?", "? a", ":",
    ": a", "a: b", "a:", "a #b", "#a", "a#b", "*a", "&a", "!a", "%a", "@a", "`a", "|", ">", "|-\n a", "[a",
    "{a: b}", "a]", "a, b", "'", '"', "'a'", '"a"', "it's", "\\", "a\\nb", "C:\\dir\\", "$(X)", "${X:-a: b}",
    " a", "a ", "a\n", "a\n\n", "\na", " a\nb", "a\n b\n", "a \nb", "a\n\n \nb", "\ta\nb", "a\tb", "a\n\tb\n",
    "a\r\nb", "a\rb", "\r", "---", "--- a", "...", "a\n---\nb\n", "%YAML 1.1\n---\n", "# a\n# b\n", "\x85",
    "\u2028", "a\u2029b", "\ufeff", "\x07", "\x00", "\x7f", "\xa0", "é", "雪", "😀", "\ud800", "x" * 300,
    "long words " * 300, "long words\n" * 300, "a" * 5000 + "\n" + " b" * 3000, "9" * 5000,
]  # fmt: skip

CHARACTERS = st.sampled_from(
    [*"ab01.,:-+_eE#&*!|>'\"%@`[]{}<~=?\\ \t\n\r", "\x85", "\u2028", "\ufeff", "\x00", "é", "雪", "😀"]
)
TEXTS = st.text(alphabet=CHARACTERS, max_size=30) | st.text(max_size=30) | st.sampled_from(NASTY)
TREES = st.recursive(
    TEXTS.map(Text),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXTS, below, max_size=3),
    max_leaves=12,
)


def parse(yaml: str) -> object:
    problems = Problems("spec.yaml")
    tree = to_tree(read_tree(yaml, problems))
    problems.raise_if_any()
    return tree


def plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    return [plain(item) for item in tree] if isinstance(tree, list) else tree.value


@pytest.mark.parametrize("text", NASTY)
def test_a_nasty_text_comes_back_wherever_it_stands(text):
    tree: Any = {
        "a": Text(text),
        "b": [Text(text), [Text(text)], {"c": Text(text)}],
        text or "key": Text(text),
        "z": Text("end"),
    }

    assert plain(parse(dump_spec(tree))) == plain(tree)


@given(st.dictionaries(TEXTS, TREES, max_size=4))
def test_any_tree_comes_back(tree):
    assert plain(parse(dump_spec(tree))) == plain(tree)


@given(st.lists(TEXTS.filter(str.strip), min_size=1, max_size=5))
def test_parameter_values_come_back_as_the_same_texts(values):
    tree: Any = {
        "description": {"name": Text("a"), "description": Text("b")},
        "study": [{"name": Text("sim"), "description": Text("c"), "run": {"cmd": Text("d")}}],
        "global.parameters": {"X": {"values": [Text(value) for value in values], "label": Text("X.%%")}},
    }
    spec = load_text(dump_spec(tree))

    assert [text.value for text in spec.parameters[0].values] == values


@given(TEXTS.filter(str.strip), TEXTS.filter(str.strip))
def test_scripts_and_variables_come_back_as_the_same_texts(cmd, variable):
    tree: Any = {
        "description": {"name": Text("a"), "description": Text("b")},
        "env": {"variables": {"A": Text(variable)}},
        "study": [{"name": Text("sim"), "description": Text("c"), "run": {"cmd": Text(cmd)}}],
    }
    spec = load_text(dump_spec(tree))

    assert (spec.steps[0].run.cmd.value, spec.variables["A"].value) == (cmd, variable)


def load_text(yaml: str):
    """Through a real file, since load_spec reads no other thing."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "spec.yaml"
        path.write_text(yaml, encoding="utf-8")
        return load_spec(path)[0]


def test_each_value_is_replaced_once_and_in_order():
    seen = []

    def replace(text: Text) -> str:
        seen.append(text.value)
        return text.value.replace("$(A)", "x: y")

    yaml = dump_spec({"$(A)": [Text("1 $(A)"), Text("2")], "b": {"c": Text("3")}}, replace)

    assert seen == ["1 $(A)", "2", "3"]
    assert plain(parse(yaml)) == {"$(A)": ["1 x: y", "2"], "b": {"c": "3"}}


def test_scripts_are_literal_blocks_and_plain_things_are_plain():
    tree: Any = {
        "cmd": Text("echo 'a'\n\tif [ x ]; then\n    y\n  fi\n"),
        "nodes": Text("2"),
        "flag": Text("true"),
        "real": Text("0.75"),
        "text": Text("1.50"),
        "walltime": Text("10:30:00"),
        "empty": [],
        "none": {},
    }
    assert (
        dump_spec(tree)
        == """\
cmd: |
  echo 'a'
  \tif [ x ]; then
      y
    fi
nodes: 2
flag: true
real: 0.75
text: '1.50'
walltime: 10:30:00
empty: []
none: {}
"""
    )


def test_no_line_is_folded():
    words = "words and more words " * 50 + "end"

    assert dump_spec({"a": Text(words)}) == f"a: {words}\n"


def test_a_loaded_spec_is_the_same_after_a_dump(tmp_path):
    yaml = """\
description: {name: study, description: a study}
user: {run: &run {nodes: 1, bind: }}
env: {variables: {A: 010, B: [x, "y z"], C: "null"}}
study:
  - name: sim
    description: simulates
    run:
      <<: *run
      cmd: |2
          echo
        done
global.parameters:
  X: {values: [.75, 1.50, "1.50", 1e-3], label: X.%%}
merlin: {resources: {workers: {w: }}}
"""
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(yaml)
    spec, _ = load_spec(first)
    second.write_text(dump_spec(spec.tree))
    again, _ = load_spec(second)

    assert plain(again.tree) == plain(spec.tree)
    assert [text.value for text in again.parameters[0].values] == ["0.75", "1.5", "1.50", "1e-3"]
    assert again.steps[0].run.cmd.value == "  echo\ndone\n"
    assert [worker.name.value for worker in again.workers] == ["w"]
    assert again.steps[0].run.resources["nodes"].value == "1"
