"""Parameters × steps: nodes, edges, directories, by table and against a model that goes row by row."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrun.engine.plan.model import Barrier
from mrun.engine.steps.render import NodeText

from .specs import body, make_spec, parameter, plan, problems, step

AB = (parameter("A", [1, 1, 2]), parameter("B", ["x", "y", "z"]))
WORKSPACE = "/area/study_20260304-050607"


def directories(made):
    return [NodeText(made, index).directory.removeprefix(WORKSPACE + "/") for index in range(len(made.nodes))]


def test_the_example_of_the_spec_language():
    spec = make_spec(
        step("a", "$(A)"),
        step("b", "$(B.label)"),
        step("nothing", depends=["a"]),
        step("both", "$(A) $(B)"),
        step("funnel", depends=["both_*"]),
        parameters=AB,
    )
    made = plan(spec)
    assert [each.node_count for each in made.steps] == [2, 3, 2, 3, 1]
    assert directories(made) == [
        *("a/A.1", "a/A.2"),
        *("b/B.x", "b/B.y", "b/B.z"),
        *("nothing/A.1", "nothing/A.2"),
        *("both/A.1.B.x", "both/A.1.B.y", "both/A.2.B.z"),
        "funnel",
    ]
    assert [made.nodes[index].all_parents for index in (5, 6)] == [(0,), (1,)]
    assert made.barriers == (Barrier(3, 4),)
    assert made.steps[0].rows == (0, 2)
    assert [NodeText(made, index).instance_name for index in (0, 7, 10)] == ["a_A.1", "both_A.1.B.x", "funnel"]


@pytest.mark.parametrize(
    ("steps", "counts"),
    [
        ([step("s", "$(A.name)")], [2]),
        ([step("s", "true", task_queue="q$(A)")], [2]),
        ([step("s", "true", restart="$(B)")], [3]),
        ([step("s", "true", description="with $(B)")], [3]),
        ([step("s", "true", launcher_texts={"slurm": "--x=$(B)"})], [3]),
        ([step("s_$(B)", "true")], [3]),
        ([step("s", "$(b)"), step("t", "$(A)", ["s"])], [1, 2]),
        ([step("s", "$(A)"), step("t", "$(s.workspace)")], [2, 2]),
        ([step("s", "$(A)"), step("t", "$(s.workspace)", ["s_*"])], [2, 1]),
        ([step("s", "$(A)"), step("t", "$(B)", ["s"])], [2, 3]),
        ([step("s", "$(A) $(t.workspace)"), step("t", "$(B) $(s.workspace)")], [3, 3]),
        ([step("t", "true", ["s"]), step("s", "$(A)")], [2, 2]),
        ([step("t", "true", ["s*"]), step("s", "$(A)")], [1, 2]),
    ],
)
def test_who_uses_which_parameters(steps, counts):
    assert [each.node_count for each in plan(make_spec(*steps, parameters=AB)).steps] == counts


@pytest.mark.parametrize(
    ("parent", "child", "depends", "expected"),
    [
        ("$(X)", "$(X)", ["s"], ((), (0,), False)),
        ("$(X)", "true", ["s"], ((0,), (), False)),
        ("true", "$(X)", ["s"], ((0,), (), False)),
        ("true", "true", ["s"], ((0,), (), False)),
        ("$(X)", "$(X)", ["s_*"], ((), (), True)),
        ("$(X)", "$(X)", ["s_*", "s*", "s"], ((), (), True)),
        ("$(X)", "$(X)", ["s", "s"], ((), (0,), False)),
    ],
)
def test_each_all_and_starred_edges(parent, child, depends, expected):
    made = plan(make_spec(step("s", parent), step("t", child, depends), columns=["X"]))
    node = made.nodes[1]
    assert (node.all_parents, node.each_parents, made.barriers == (Barrier(0, 1),)) == expected


@pytest.mark.parametrize(
    ("steps", "parameters", "expected"),
    [
        ([step("s", "$(P)")], [parameter("P", ["a/b", "ab"])], "The labels 'P.a/b' and 'P.ab' would share"),
        ([step("s", "$(P)")], [parameter("P", ["a b", "a_b"])], "The labels 'P.a b' and 'P.a_b' would share"),
        (
            [step("s", "$(P)$(Q)")],
            [parameter("P", ["1", "1.Q"], "%%"), parameter("Q", ["Q.1", "1"], "%%")],
            "The labels '1.Q.1' and '1.Q.1' would share",
        ),
        ([step("s", "$(P)")], [parameter("P", ["é", "b"], "%%")], "The label 'é' can't name a directory."),
        ([step("s", "$(P)")], [parameter("P", ["..", "b"], "%%")], "The label '..' can't name a directory."),
        (
            [step("a", "$(P)"), step("a_b", "$(Q)")],
            [parameter("P", ["b_c"], "%%"), parameter("Q", ["c"], "%%")],
            "Steps 'a' and 'a_b' would both have an instance 'a_b_c'.",
        ),
        ([step("a", "$(P)"), step("a_1")], [parameter("P", [1], "%%")], "Steps 'a' and 'a_1' would both have"),
        ([step("s", "$(P)")], [parameter("P", ["x" * 250])], "The instance name"),
        ([step("s")], [parameter("P", [1, 2]), parameter("Q", [1])], "'Q' has 1 values, 'P' has 2."),
        ([step("s")], [parameter("SPECROOT", [1])], "'SPECROOT' is a name of mrun's own"),
        ([step("s")], [parameter("P", ["$(Q)"]), parameter("Q", [1])], "'$(Q)' can't be used in a value of 'P'"),
        ([step("a b"), step("a_b")], [], "Steps 'a b' and 'a_b' would share the directory 'a_b'."),
        ([step("s"), step("s")], [], "There are two steps 's'."),
        ([step("merlin_info")], [], "The step name 'merlin_info' can't name a directory."),
        ([step("$(V)", depends=["u"]), step("u", depends=["$(V)"])], [], "in a circle: one → u → one."),
        ([step("s", depends=["$(V)"])], [], "Step 's' depends on 'one', which is no step."),
    ],
)
def test_what_expansion_refuses(steps, parameters, expected):
    spec = make_spec(*steps, parameters=tuple(parameters), variables={"V": "one"})
    (message,) = problems(spec)
    assert expected in message


def test_rows_with_equal_labels_collapse_into_the_first_with_a_warning():
    made = plan(make_spec(step("s", "$(P)"), parameters=(parameter("P", [5, 6, 7], ["a", "a", "b"]),)))
    assert [body(made, node) for node in (0, 1)] == ["5", "7"]
    (warning,) = made.warnings
    assert "Rows 1 and 2 of the parameters have the same label, 'a', and different values" in warning


def test_names_of_steps_may_hold_variables_blanks_and_parameters():
    spec = make_spec(
        step("run $(V)", "$(P)"),
        step("at_$(P)", "$(run one.workspace) $(run $(V).workspace)", ["run $(V)"]),
        step("last", "$(at_$(P).workspace)", ["at_$(P)_*"]),
        variables={"V": "one"},
        parameters=(parameter("P", [1]),),
    )
    made = plan(spec)
    assert directories(made) == ["run_one/P.1", "at_(P)/P.1", "last"]
    assert body(made, 1) == f"{WORKSPACE}/run_one/P.1 {WORKSPACE}/run_one/P.1"
    assert body(made, 2) == f"{WORKSPACE}/at_(P)"


def test_a_queue_may_hold_parameters():
    spec = make_spec(step("s", task_queue="q_$(P)_$(P.label)"), parameters=(parameter("P", [1, 2]),))
    assert [node.queue for node in plan(spec).nodes] == ["q_1_P.1", "q_2_P.2"]


def test_fifty_thousand_nodes():
    parameters = tuple(parameter(name, range(5000)) for name in "AB")
    steps = [step(f"s{i}", "$(A) $(B) $(WORKSPACE)", [f"s{i - 1}"] if i else []) for i in range(10)]
    made = plan(make_spec(*steps, parameters=parameters))
    assert len(made.nodes) == 50_000
    assert made.nodes[49_999].all_parents == (44_999,)
    assert body(made, 49_999) == f"4999 4999 {WORKSPACE}/s9/A.4999.B.4999"


# The model: the rules of SPEC-LANGUAGE §3, one row after the other, with names instead of numbers.


def model(steps, rows):
    """Nodes by directory: the first row, the workspaces that its script mentions, and its parents."""
    by_name = {one["name"]: one for one in steps}

    def used(name):
        ahead, seen = [name], {name}
        while ahead:
            one = by_name[ahead.pop()]
            for other in (*one["ordinary"], *(set(one["mentions"]) - set(one["starred"]))):
                if other not in seen:
                    seen.add(other)
                    ahead.append(other)
        return {parameter for other in seen for parameter in by_name[other]["own"]}

    def directory(name, row):
        labels = ".".join(f"{parameter}.{rows[parameter][row]}" for parameter in sorted(used(name)))
        return f"{name}/{labels}" if labels else name

    nodes: dict[Any, Any] = {}
    for one in steps:
        for row in range(len(next(iter(rows.values())))):
            node = nodes.setdefault(directory(one["name"], row), {"row": row, "all": set(), "each": set()})
            if node["row"] != row:
                continue
            starred = one["starred"]
            node["mentions"] = [name if name in starred else directory(name, row) for name in one["mentions"]]
            for parent in one["ordinary"]:
                is_each = one["samples"] and by_name[parent]["samples"]
                node["each" if is_each else "all"].add(directory(parent, row))
            for parent in one["starred"]:
                node["all"] |= {directory(parent, other) for other in range(len(rows["A"]))}
    return nodes


@st.composite
def studies(draw):
    count = draw(st.integers(1, 4))
    rows = {name: draw(st.lists(st.sampled_from("xyz"), min_size=count, max_size=count)) for name in "ABC"}
    steps: list[Any] = []
    for index in range(draw(st.integers(1, 6))):
        earlier = [one["name"] for one in steps]
        some = st.lists(st.sampled_from(earlier), unique=True) if earlier else st.just([])
        ordinary = draw(some)
        starred = [name for name in draw(some) if name not in ordinary]
        own = draw(st.lists(st.sampled_from("ABC"), unique=True))
        samples = draw(st.booleans())
        mentions = draw(st.lists(st.sampled_from([*earlier, f"s{index}"]), unique=True, max_size=2))
        steps.append(
            {"name": f"s{index}", "own": own, "ordinary": ordinary, "starred": starred, "samples": samples}
            | {"mentions": mentions},
        )
    if draw(st.booleans()):
        steps[0]["mentions"].append(steps[-1]["name"])  # mentions may go in circles
    return draw(st.permutations(steps)), rows


@settings(max_examples=200)
@given(studies())
def test_expansion_agrees_with_the_model(study):
    steps, rows = study
    spec = make_spec(
        *(
            step(
                one["name"],
                " ".join(
                    [
                        *(f"$({name}.workspace)" for name in one["mentions"]),
                        *(f"$({name})" for name in one["own"]),
                        *(["$(X)"] if one["samples"] else []),
                    ]
                ),
                [*one["ordinary"], *(f"{name}_*" for name in one["starred"])],
            )
            for one in steps
        ),
        parameters=tuple(parameter(name, values) for name, values in rows.items()),
        columns=["X"],
    )
    made = plan(spec)
    names = directories(made)
    expected = model(steps, rows)
    assert sorted(names) == sorted(expected)
    for index, node in enumerate(made.nodes):
        parents = {names[parent] for parent in node.all_parents}
        for barrier in made.barriers:
            if barrier.child == node.step:
                parent = made.steps[barrier.parent]
                parents |= set(names[parent.first_node : parent.first_node + parent.node_count])
        assert parents == expected[names[index]]["all"]
        assert {names[parent] for parent in node.each_parents} == expected[names[index]]["each"]
        mentions = expected[names[index]]["mentions"]
        assert body(made, index).split()[: len(mentions)] == [f"{WORKSPACE}/{name}" for name in mentions]
        at = made.steps[node.step]
        assert index in range(at.first_node, at.first_node + at.node_count)
        if at.rows:
            assert at.rows[index - at.first_node] == expected[names[index]]["row"]
