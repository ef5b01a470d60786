"""What the room makes of YAML itself: aliases, merge keys, duplicate keys, and files that are broken or hostile."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrun.engine.errors import SpecError
from mrun.engine.spec.load import load_spec
from mrun.engine.spec.problems import Problems
from mrun.engine.spec.yaml_tree import read_tree, to_tree

SPEC = """\
description: {name: study, description: a study}
study:
  - {name: sim, description: simulates, run: {cmd: echo}}
"""


def texts_of(yaml: str) -> object:
    """The tree's plain texts; raises if there is any problem."""
    problems = Problems("spec.yaml")
    tree = to_tree(read_tree(yaml, problems))
    problems.raise_if_any()

    def plain(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: plain(value) for key, value in node.items()}
        return [plain(item) for item in node] if isinstance(node, list) else node.value

    return plain(tree)


@pytest.fixture
def problem_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def find(content: str | bytes):
        (tmp_path / "spec.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(SpecError) as caught:
            load_spec("spec.yaml")
        assert len(caught.value.problems) == 1
        return caught.value.problems[0]

    return find


TREES = {
    "texts as written": (
        "a: 010\nb: 10:30:00\nc: yes\nd: 1.50\ne: 0x10",
        {"a": "010", "b": "10:30:00", "c": "yes", "d": "1.50", "e": "0x10"},
    ),
    "quoted texts": ("a: 'it''s'\nb: \"x\\ty\"\n\"c d\": '010'", {"a": "it's", "b": "x\ty", "c d": "010"}),
    "a number as a key": ("1: a\n0x10: b", {"1": "a", "0x10": "b"}),
    "null": ("a:\nb: ~\nc: null\nd: 'null'", {"a": "", "b": "", "c": "", "d": "null"}),
    "a literal block": ("a: |\n  x\n   y\n\n  z\n", {"a": "x\n y\n\nz\n"}),
    "a folded block": ("a: >-\n  x\n  y\n", {"a": "x y"}),
    "windows line ends": ("a: |\r\n  x\r\n  y\r\nb: c\r\n", {"a": "x\ny\n", "b": "c"}),
    "an alias": ("a: &x [1, 2]\nb: *x", {"a": ["1", "2"], "b": ["1", "2"]}),
    "a later anchor of the same name": ("a: &x 1\nb: *x\nc: &x 2\nd: *x", {"a": "1", "b": "1", "c": "2", "d": "2"}),
    "a merge": (
        "a: &x {k: 1, l: 2}\nb: {<<: *x, l: 3, m: 4}",
        {"a": {"k": "1", "l": "2"}, "b": {"k": "1", "l": "3", "m": "4"}},
    ),
    "a merge at the end": ("a: &x {k: 1}\nb: {k: 2, <<: *x}", {"a": {"k": "1"}, "b": {"k": "2"}}),
    "a merge of several": (
        "a: &x {k: 1}\nb: &y {k: 2, l: 3}\nc: {<<: [*x, *y]}",
        {"a": {"k": "1"}, "b": {"k": "2", "l": "3"}, "c": {"k": "1", "l": "3"}},
    ),
    "a merge of a merge": (
        "a: &x {k: 1}\nb: &y {<<: *x, l: 2}\nc: {<<: *y}",
        {"a": {"k": "1"}, "b": {"k": "1", "l": "2"}, "c": {"k": "1", "l": "2"}},
    ),
    "a quoted merge key": ("a: {'<<': b}", {"a": {"<<": "b"}}),
    "known tags": ("a: !!str 010\nb: !!int 3\nc: !!map {d: e}", {"a": "010", "b": "3", "c": {"d": "e"}}),
    "an old directive": ("%YAML 1.1\n---\na: yes\nb: 10:30:00\n...\n", {"a": "yes", "b": "10:30:00"}),
    "a dot in a key": ("global.parameters: {}", {"global.parameters": {}}),
    "characters of all planes": ("ä: 雪 😀", {"ä": "雪 😀"}),
}


@pytest.mark.parametrize(("yaml", "tree"), TREES.values(), ids=TREES.keys())
def test_yaml_becomes_the_texts_that_stand_there(yaml, tree):
    assert texts_of(yaml) == tree


BROKEN = {
    "empty file": ("", "The file is empty.", 0, 0),
    "only comments": ("# nothing\n\n", "The file is empty.", 0, 0),
    "a list at the top": ("- a\n- b\n", "A spec is a mapping of blocks, and this file holds a list.", 1, 1),
    "a text at the top": ("hello\n", "A spec is a mapping of blocks, and this file holds a single value.", 1, 1),
    "two documents": (SPEC + "---\na: b\n", "The file holds more than one YAML document.", 4, 1),
    "not UTF-8": (b"a: b\nc: \xff\xfe\n", "The file is not UTF-8 text: it holds the byte 0xFF.", 2, 4),
    "UTF-16": ("a: b".encode("utf-16"), "The file is not UTF-8 text: it holds the byte 0xFF.", 1, 1),
    "a null byte": ("a: b\nc: \x00", "The file holds the character U+0000, which YAML does not allow.", 2, 4),
    "a bell": ("a: \x07", "The file holds the character U+0007, which YAML does not allow.", 1, 4),
    "an open bracket": ("a: [1, 2\nb: 3\n", "This is not YAML: ", 2, 2),
    "an open quote": ("a: 'b\nc: d\n", "This is not YAML: ", 3, 1),
    "a tab as indentation": ("a:\n\tb: c\n", "This is not YAML: found character '\\t'", 2, 1),
    "two colons": ("a: b: c\n", "This is not YAML: mapping values are not allowed", 1, 5),
    "a bad indentation": ("a:\n  b: c\n d: e\n", "This is not YAML: ", 3, 2),
    "an undefined alias": ("a: *b\n", "This is not YAML: found undefined alias 'b'", 1, 4),
    "a wild at sign": ("a: @b\n", "This is not YAML: found character '@'", 1, 4),
    "an impossible escape": ('a: "\\U99999999"\n', "This is not YAML: ", 0, 0),
    "an unknown escape": ('a: "\\q"\n', "This is not YAML: found unknown escape character 'q'", 1, 6),
    "a value that holds itself": ("a: &x [*x]\n", "This value holds itself through an alias.", 1, 4),
    "a merge with itself": ("a: &x {<<: *x}\n", "This value holds itself through an alias.", 1, 4),
    "deep lists": ("a: " + "[" * 5_000, "The values are nested more than 100 levels deep.", 1, 103),
    "deep dashes": ("- " * 5_000, "The values are nested more than 100 levels deep.", 1, 201),
}


@pytest.mark.parametrize(("content", "message", "line", "column"), BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_is_no_tree_is_one_problem_with_a_hint(problem_of, content, message, line, column):
    problem = problem_of(content)

    assert problem.message.startswith(message), problem
    assert (problem.line, problem.column) == (line, column)
    assert problem.message.endswith(".")
    assert "\n" not in problem.message


ODD = {
    "a key twice": ("a: 1\nb: 2\na: 3\n", "The key 'a' stands twice in one block: here and at line 1.", 3, 1),
    "a key twice in flow": ("a: {b: 1, b: 2}\n", "The key 'b' stands twice in one block: here and at line 1.", 1, 11),
    "a key in two spellings": ("a: {b: 1, 'b': 2}\n", "The key 'b' stands twice", 1, 12),
    "two merges": ("a: &x {}\nb:\n  <<: *x\n  <<: *x\n", "The key '<<' stands twice in one block", 4, 3),
    "a merge of a text": ("b: {<<: text}\n", "'<<' merges mappings, and this is none.", 1, 9),
    "a merge of texts": ("b: {<<: [{a: b}, text]}\n", "'<<' merges mappings, and this is none.", 1, 18),
    "a list as a key": ("? [a]\n: b\n", "A key must be a text", 1, 3),
    "an object as a key": ("{{a: b}: c}\n", "A key must be a text", 1, 2),
    "a strange tag": ("a: !ruby/object b\n", "The tag '!ruby/object' means nothing to mrun.", 1, 4),
    "a python tag": ("a: !!python/object:os.system x\n", "The tag 'tag:yaml.org,2002:python/object:os.system'", 1, 4),
    "a set": ("a: !!set {b}\n", "The tag 'tag:yaml.org,2002:set' means nothing", 1, 4),
}


@pytest.mark.parametrize(("yaml", "message", "line", "column"), ODD.values(), ids=ODD.keys())
def test_odd_yaml_is_a_problem_at_its_place(yaml, message, line, column):
    with pytest.raises(SpecError) as caught:
        texts_of(yaml)

    (problem,) = caught.value.problems
    assert message in problem.message
    assert (problem.line, problem.column) == (line, column)
    assert problem.hint


def test_duplicate_keys_are_reported_beside_other_mistakes(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC + "batch: {type: local, type: slurm, nodes: 0}\n")

    with pytest.raises(SpecError) as caught:
        load_spec(path)

    assert [problem.column for problem in caught.value.problems] == [22, 42]


def test_billions_of_values_are_refused_at_once(problem_of):
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]\n" for i in range(1, 60))
    started = time.perf_counter()
    tracemalloc.start()

    problem = problem_of("user:\nl0: &l0 lol\n" + levels)

    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert problem.message == "The aliases of this file make more than 1,000,000 values of it."
    assert problem.line == 8
    assert time.perf_counter() - started < 5
    assert peak_bytes < 20_000_000


def test_a_long_text_that_is_multiplied_is_refused_too(problem_of):
    text = (
        "a: &a " + "x" * 100_000 + "\nb: &b [" + ", ".join(["*a"] * 150) + "]\nc: [" + ", ".join(["*b"] * 100) + "]\n"
    )

    assert "more than 1,000,000 values" in problem_of(text).message


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "nowhere.yaml")

    assert caught.value.message == "There is no such file."
    assert caught.value.where == str(tmp_path / "nowhere.yaml")
    assert caught.value.hint


def test_a_directory_is_one_sentence(tmp_path):
    with pytest.raises(SpecError, match="This is a directory, not a file"):
        load_spec(tmp_path)


def test_a_name_that_no_file_can_have_is_one_sentence():
    with pytest.raises(SpecError, match="The file can't be read"):
        load_spec("a\0b.yaml")


def test_a_file_below_a_file_is_one_sentence(tmp_path):
    (tmp_path / "a").write_text("")

    with pytest.raises(SpecError, match="The file can't be read: Not a directory"):
        load_spec(tmp_path / "a" / "spec.yaml")


def test_an_unreadable_file_is_one_sentence():
    # The memory of this process: nothing is mapped at its beginning. Permissions would not keep root out.
    with pytest.raises(SpecError, match="The file can't be read: Input/output error"):
        load_spec("/proc/self/mem")


def test_a_file_without_end_is_refused():
    with pytest.raises(SpecError, match="The file has more than 4 MiB"):
        load_spec("/dev/zero")


@given(st.text(alphabet=st.sampled_from("ab:,-? \n\t#&*!|>'\"%@`[]{}<~0.\\\r")))
def test_any_text_is_a_tree_or_a_spec_error(text):
    with contextlib.suppress(SpecError):
        texts_of(text)
