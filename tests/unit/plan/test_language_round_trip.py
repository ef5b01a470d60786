"""Through the real loader, compiler and writer: the expanded copy of a spec is the same study, whatever its texts are,
and a script holds exactly what its author wrote, but for the tokens."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mrun.engine.plan.model import Plan
from mrun.engine.spec.dump import dump_spec
from mrun.engine.spec.model import Text, Tree
from mrun.engine.steps.render import NodeText
from mrun.engine.studies.enqueue import Order, check, prepare
from mrun.engine.table.reader import SampleReader

ENVIRONMENT = {"HOME": "/home/a b: #c", "STAR": "*anchor", "COST": "$STAR and \\", "PATH": "/nowhere"}
#: What is hard for YAML, for the shell's words, or for a scanner of tokens.
HARD = [
    "\\", "\\\\", "\\n", "\\1", "\\g<0>", "'", '"', "`date`", ": ", " #", "*a", "&a", "!a", "- ", "? ", "|", ">",
    "%%", "%", "{0}", "{", "}", "[", "]", ",", "@", "é", "雪", "\u2028", "\x85", "\ufeff", "\t", "\r\n", "\n", " ",
    "$", "$$", "${X}", "$X", "$(date)", "$(cat a b)", "\\$(NOPE)", "~", "~/a", "null", "010", "1.50", "yes", "<<",
    "x" * 90, "long words " * 9,
]  # fmt: skip
TOKENS = ["$(V)", "$(W)", "$(L)", "$(A)", "$(A.label)", "$(X)", "$(y)", "$(MERLIN_SAMPLE_ID)", "$(SPECROOT)"]
STUDY_TOKENS = ["$(SPECROOT)", "$(MERLIN_INFO)", "$HOME", "${STAR}", "$COST", "$(MERLIN_SUCCESS)"]
#: Outside scripts nothing is the shell's.
OUTSIDE_SCRIPTS = [part for part in HARD if part not in ("$(date)", "$(cat a b)")]
UNKNOWN = re.compile(r"(?<!\\)(?:\\\\)+\$\(NOPE\)")
letters = st.sampled_from("ab01._-")


def texts(tokens: list[str], hard: list[str] = HARD) -> st.SearchStrategy[str]:
    """A text that is not blank."""
    parts = st.lists(st.sampled_from(hard) | st.sampled_from(tokens) | letters, min_size=1, max_size=8)
    return parts.map("".join).filter(str.strip)


def tree_of(v: str, w: str, cmd: str, restart: str, values: list[str], queue: str) -> dict[str, Tree]:
    return {
        "description": {"name": Text("round trip"), "description": Text(w)},
        "env": {
            "variables": {"OUTPUT_PATH": Text("./out"), "V": Text(v), "W": Text(w), "LIST": [Text(v), Text(w)]},
            "labels": {"L": Text("$(A.label)$(V)")},
        },
        "study": [
            {
                "name": Text("sim"),
                "description": Text("d"),
                "run": {"cmd": Text(cmd), "restart": Text(restart), "task_queue": Text(f"q{queue}")},
            },
            {"name": Text("end"), "description": Text(v), "run": {"cmd": Text(restart), "depends": [Text("sim_*")]}},
        ],
        "global.parameters": {
            "A": {"values": [Text(value) for value in values], "label": [Text("one"), Text("two")]},
        },
        "merlin": {"samples": {"file": Text("table.csv"), "column_labels": [Text("X"), Text("Y")]}},
    }


def compiled(directory: str, path: str) -> Plan:
    """The plan of a spec, and the copies that were made of it."""
    return prepare(check(Order(path), ENVIRONMENT, directory))


def with_workspace_of(plan: Plan, other: Plan) -> Plan:
    """All that differs between two studies of one spec is where they are, and when they were queued."""
    data = msgspec.json.encode(plan).replace(plan.workspace.encode(), other.workspace.encode())
    moved = msgspec.json.decode(data, type=Plan)
    return msgspec.structs.replace(moved, spec_path=other.spec_path, samples=other.samples, warnings=other.warnings)


@settings(max_examples=50)
@given(
    texts(STUDY_TOKENS, OUTSIDE_SCRIPTS),
    texts([*STUDY_TOKENS, "$(V)"], OUTSIDE_SCRIPTS),
    texts(TOKENS),
    texts(TOKENS),
    st.lists(texts(["$(V)", "$(SPECROOT)"], OUTSIDE_SCRIPTS), min_size=2, max_size=2),
    texts(["$(V)", "$(A)"], OUTSIDE_SCRIPTS),
)
@example("x" * 20_000, "y: " * 9000, "$(V) $(W)", "$(W)", ["a", "b" * 9000], "$(A)")
@example("\\", "$", "$(V)$(X) $(W)(X)", "$(W)(SPECROOT)", ["a", "b"], "$(A)")
@example("$COST", "$(V)", "$(V)", "echo", ["$(V)", "b"], "$(A)$(V)")
def test_the_expanded_copy_is_the_same_study(v, w, cmd, restart, values, queue):
    # A comma stands between queues elsewhere, and is refused in the name of one.
    assume("," not in queue and not ("$(V)" in queue and "," in v + w))
    # Behind two backslashes $(NOPE) is a token, and refused: nothing of that name is known.
    assume(not UNKNOWN.search(queue))
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "table.csv").write_text("1,2\n")
        Path(directory, "spec.yaml").write_text(
            dump_spec(tree_of(v, w, cmd, restart, values, queue)), "utf-8", newline=""
        )
        first = compiled(directory, os.path.join(directory, "spec.yaml"))
        # Beside the spec, for $(SPECROOT) that could not be put in.
        for copy in ("partial", "expanded"):
            again = os.path.join(directory, f"{copy}.yaml")
            Path(again).write_bytes(Path(first.workspace, f"merlin_info/spec.{copy}.yaml").read_bytes())
            assert with_workspace_of(compiled(directory, again), first) == msgspec.structs.replace(first)


NAMES = {"$(A)": "value", "$(A.label)": "label", "$(X)": "x", "$(Y)": "y", "$(y)": "y", "$(V)": "v", "$(W)": "w"}


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from(HARD) | letters | st.sampled_from(sorted(NAMES)), min_size=1, max_size=12),
    *[st.lists(st.sampled_from(HARD) | letters, max_size=5).map("".join) for _ in range(2)],
    st.lists(st.sampled_from([part for part in HARD if "$" not in part and "~" not in part]), min_size=1, max_size=5)
    .map("".join)
    .filter(str.strip),
)
@example(["$(X)", "\r\n", "$(A)", "\\", "\\", "$(Y)"], "$(X)", "$(MERLIN_SAMPLE_ID)", "\\1")
def test_only_tokens_of_a_script_change_and_nothing_is_scanned_twice(parts, x, y, value):
    put_in = {"value": value, "label": "one", "x": x, "y": y, "v": "vv", "w": "ww"}
    before = ["", *parts]
    # Behind an odd number of backslashes a token is text; they may come from several parts.
    meant = ""
    for position, part in enumerate(parts):
        written = "".join(before[: position + 1])
        is_escaped = (len(written) - len(written.rstrip("\\"))) % 2 == 1
        meant += put_in[NAMES[part]] if part in NAMES and not is_escaped else part
    tree = tree_of("vv", "ww", f"#{''.join(parts)}#$(A)$(X)", "true", [value, "2"], "q")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "table.csv").write_text("1,2\n")
        Path(directory, "spec.yaml").write_text(dump_spec(tree), "utf-8", newline="")
        plan = compiled(directory, os.path.join(directory, "spec.yaml"))
    script = NodeText(plan, 0).script_text(0, (x, y))
    expected = f"#!/bin/bash\n\n#{meant}#{value}{x}"
    assert script == (expected if expected.endswith("\n") else f"{expected}\n")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("indicator", ["|", "|+", "|2"])
def test_block_texts_come_as_yaml_says_whatever_ends_their_lines(tmp_path, indicator, newline):
    """YAML makes one line feed of every line break; a carriage return within quotes stays."""
    cmd = "  if true; then\n    echo '*a' &b !c: d # e\n  fi"
    body = "\n".join(f"        {line}" for line in cmd.split("\n"))
    spec = (
        f"description: {{name: n, description: d}}\nstudy:\n  - name: s\n    description: d\n"
        f'    run:\n      cmd: {indicator}\n{body}\n      restart: "a\\r\\nb"\n'
    )
    (tmp_path / "spec.yaml").write_bytes(spec.replace("\n", newline).encode())
    text = NodeText(compiled(str(tmp_path), str(tmp_path / "spec.yaml")), 0)
    stripped = cmd if indicator == "|2" else "\n".join(line.removeprefix("  ") for line in cmd.split("\n"))
    assert text.script_text() == f"#!/bin/bash\n\n{stripped}\n"
    assert text.script_text(is_restart=True) == "#!/bin/bash\n\na\r\nb\n"


def test_cells_of_a_table_stand_in_scripts_as_they_are(tmp_path):
    cells = ["$(X)", "\\1", "'", '"', ": ", " #", "*a", "&a", "!a", "é雪", "a\r\nb", "x" * 100_000, "`date`", "{0}"]
    rows = "".join('"' + cell.replace('"', '""') + '",y\n' for cell in cells)
    (tmp_path / "table.csv").write_text(rows, encoding="utf-8", newline="")
    (tmp_path / "spec.yaml").write_text(dump_spec(tree_of("v", "w", "<$(X)>", "true", ["1", "2"], "q")))
    plan = compiled(str(tmp_path), str(tmp_path / "spec.yaml"))
    assert plan.samples is not None
    reader = SampleReader(plan.samples)
    node = NodeText(plan, 0)
    for number, cell in enumerate(cells):
        assert node.script_text(number, reader.values(number)) == f"#!/bin/bash\n\n<{cell.strip()}>\n"
