"""Scripts and directories, as the worker gets them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrun.engine.steps.render import NodeText
from mrun.engine.table.paths import sample_depth, sample_path

from .specs import body, make_spec, parameter, plan, step

WORKSPACE = "/area/study_20260304-050607"

HOSTILE = ["$(X)", "$(MERLIN_SAMPLE_ID)", r"\1\g<0>\\", "'\"`$(date)`", "é 雪 \u2028", "a\r\nb", "%%", "{0}", ""]


@pytest.mark.parametrize(
    ("index", "count", "level", "expected"),
    [
        (0, 1, 25, ""),
        (0, 2, 25, "00"),
        (24, 25, 25, "24"),
        (0, 26, 25, "00/00"),
        (24, 26, 25, "00/24"),
        (25, 26, 25, "01/00"),
        (0, 3, 2, "0/0"),
        (1, 3, 2, "0/1"),
        (2, 3, 2, "1/0"),
        (9, 10, 10, "09"),
        (0, 10**8, 25, "00/00/00/00/00/00"),
    ],
)
def test_sample_paths(index, count, level, expected):
    assert sample_path(index, count, level) == expected


@given(st.integers(1, 3000), st.integers(2, 30))
def test_sample_paths_are_different_sorted_and_of_one_depth(count, level):
    paths = [sample_path(index, count, level) for index in range(count)]
    assert len(set(paths)) == count
    assert paths == sorted(paths)
    depth = sample_depth(count, level)
    assert level**depth >= count
    assert depth == 0 or level ** (depth - 1) < count
    assert all(len(path.split("/")) == depth for path in paths) or paths == [""]


@pytest.mark.parametrize("value", HOSTILE)
def test_values_are_put_in_as_they_are(value):
    spec = make_spec(
        step("s", "<$(P)|$(X)|$(P.label)|$(V)>"),
        variables={"V": "v"},
        parameters=(parameter("P", [value.replace("$(", "$ (")], ["label"]),),
        columns=["X"],
    )
    expected = f"<{value.replace('$(', '$ (')}|{value}|label|v>"
    assert body(plan(spec), values=(value,)) == expected


@given(st.text(alphabet="$()\\ A[4p],\nb.'\"\r"), st.text(), st.text())
def test_text_outside_tokens_never_changes(around, first, second):
    around = around.replace("$(", "$")
    made = plan(make_spec(step("s", f"{around} $(X)<{around}>$(Y)"), columns=["X", "Y"]))
    assert body(made, values=(first, second)) == f"{around} {first}<{around}>{second}".removesuffix("\n")


def test_scripts_begin_with_the_shell_and_end_with_a_newline():
    made = plan(make_spec(step("s", "echo\r\n", restart="again", shell="/usr/bin/env python3"), step("t", "x")))
    text = NodeText(made, 0)
    assert text.shell == "/usr/bin/env python3"
    assert text.script_text() == "#!/usr/bin/env python3\n\necho\r\n"
    assert text.script_text(is_restart=True) == "#!/usr/bin/env python3\n\nagain\n"
    assert NodeText(made, 1).script_text(is_restart=True) == "#!/bin/bash\n\nx\n"


def test_directories_of_samples_are_below_their_nodes():
    spec = make_spec(step("s p", "$(X) $(WORKSPACE)", ["f"]), step("f", "$(P)"), parameters=(parameter("P", ["a b"]),))
    spec_with = make_spec(*spec.steps, parameters=spec.parameters, columns=["X"])
    made = plan(spec_with, count=30)
    one, other = NodeText(made, 0), NodeText(made, 1)
    assert (one.size, other.size) == (30, 1)
    assert one.instance_name == "s_p_P.a_b"
    assert one.directory == f"{WORKSPACE}/s_p/P.a_b"
    assert one.sample_directory(26) == f"{WORKSPACE}/s_p/P.a_b/01/01"
    assert other.sample_directory(0) == other.directory == f"{WORKSPACE}/f/P.a_b"
    assert NodeText(plan(spec_with, count=1), 0).sample_directory(0) == f"{WORKSPACE}/s_p/P.a_b"
    assert body(made, 0, values=("1",)) == f"1 {WORKSPACE}/s_p/P.a_b"
