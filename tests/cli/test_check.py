"""`mrun check`: what would be queued, exactly; and nothing is made, no server is needed."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from tests.cli.homes import Home
from tests.unit.plan.test_language_rules_mistakes import TENS, with_mistakes

SPEC = """\
description: {name: checked, description: x}
env:
  variables: {OUTPUT_PATH: ./studies, N: 3}
global.parameters:
  A: {values: [1, 2], label: A.%%}
study:
  - name: mesh
    description: x
    run: {cmd: 'echo $(X) $(A)', task_queue: mesh_$(A), restart: echo again}
  - name: solve
    description: x
    run: {cmd: 'echo $(X)', depends: [mesh], task_queue: sim}
  - name: mean
    description: x
    run: {cmd: echo, depends: [solve], task_queue: sim}
  - name: report
    description: x
    run: {cmd: echo, depends: [mean_*], task_queue: sim}
merlin:
  samples:
    file: table.csv
    column_labels: [X]
    level_max_dirs: 4
"""
GENERATE = "    generate: {cmd: 'seq 6 > $(MERLIN_WORKSPACE)/table.csv'}\n"


@pytest.fixture
def bare_home(home: Home) -> Home:
    """A home in which no server runs, with the spec."""
    home.write("spec.yaml", SPEC)
    home.write("table.csv", "1\n2\n3\n# not a row\n4\n5\n6\n")
    return home


def files_and_directories(top: Path) -> tuple[int, int]:
    """Below a directory, with itself."""
    found = [(len(files), 1) for _, _, files in os.walk(top)]
    return sum(files for files, _ in found), len(found)


def untouched(home: Home) -> None:
    assert home.processes() == {}, "no server was started"
    assert not list((home.directory / "config").rglob("*"))
    assert not list((home.directory / "run").rglob("*"))
    assert home.study_dirs() == []


@pytest.mark.slow
def test_check_shows_what_would_be_queued_and_touches_nothing(bare_home: Home) -> None:
    done = bare_home.run("check", "spec.yaml", "--graph")
    assert done.returncode == 0, done.stderr
    assert "study    checked: 4 steps, 3 edges, 7 nodes, 27 scripts\n" in done.stdout
    assert f"samples  6: {bare_home.work}/table.csv\n" in done.stdout
    assert "queues   mesh_1, mesh_2, sim\n" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["solve", "sim", "2", "6", "12", "cpus=1", "mesh", "(each)"] in rows
    assert ["mean", "sim", "2", "2", "cpus=1", "solve", "(all)"] in rows
    assert ["report", "sim", "1", "1", "cpus=1", "mean", "(barrier)"] in rows
    assert (
        "mesh  2 nodes × 6 samples\n"
        "└─each→ solve  2 nodes × 6 samples\n"
        "   └─all→ mean  2 nodes\n"
        "      └─barrier→ report  1 node\n"
    ) in done.stdout
    assert done.stderr == "The spec is good; nothing was made.\n"
    assert bare_home.ok("check", "spec.yaml", "--quiet") == ""
    untouched(bare_home)
    assert sorted(path.name for path in bare_home.work.iterdir()) == ["spec.yaml", "table.csv"]


@pytest.mark.slow
@pytest.mark.parametrize("is_generated", [False, True])
def test_estimate_is_what_a_worker_leaves_behind(bare_home: Home, is_generated: bool) -> None:
    if is_generated:
        (bare_home.work / "table.csv").unlink()
        bare_home.write("spec.yaml", SPEC + GENERATE)
    told = bare_home.json("check", "spec.yaml")
    untouched(bare_home)
    bare_home.queue("spec.yaml")
    assert bare_home.work_off(",".join(told["queues"])).returncode == 0
    (workspace,) = bare_home.study_dirs()
    files, directories = files_and_directories(workspace)
    if is_generated:
        assert (told["inodes"], told["sample_count"], told["is_generated"]) == (None, None, True)
        assert told["known_files"] + 6 * told["files_per_sample"] == files
        # In each of four nodes the six samples lie in two directories.
        assert told["known_directories"] + 6 * told["directories_per_sample"] + 4 * 2 == directories
    else:
        assert (told["files"], told["directories"]) == (files, directories)
        assert (told["inodes"], told["sample_count"], told["is_generated"]) == (files + directories, 6, False)
        for step in told["steps"]:
            assert files_and_directories(workspace / step["name"]) == (step["files"], step["directories"])


def test_json_has_steps_edges_nodes_and_the_graph(bare_home: Home) -> None:
    told = bare_home.json("check", "spec.yaml", "--nodes", "--graph")
    assert (told["name"], told["step_count"], told["node_count"], told["scripts"]) == ("checked", 4, 7, 27)
    assert told["edges"] == [
        {"parent": "mesh", "child": "solve", "kind": "each"},
        {"parent": "solve", "child": "mean", "kind": "all"},
        {"parent": "mean", "child": "report", "kind": "barrier"},
    ]
    assert told["nodes"][3] == {
        "name": "solve_A.2", "step": "solve", "queue": "sim", "each_parents": [1], "all_parents": [],
    }  # fmt: skip
    assert "└─barrier→ report  1 script" in told["graph"]
    assert told["warnings"] == []


def test_samples_that_will_be_generated_are_said_to_be_unknown(bare_home: Home) -> None:
    (bare_home.work / "table.csv").unlink()
    bare_home.write("spec.yaml", SPEC + GENERATE)
    told = bare_home.ok("check", "spec.yaml")
    assert "scripts: not known yet" in told
    assert "samples  generated at queue time: " in told
    assert re.search(r"makes    \d+ files and \d+ directories, and for each sample 18 files and 4 directories\n", told)
    assert re.search(r"^mesh +mesh_1,mesh_2 +2 +\? +\? +cpus=1$", told, re.MULTILINE)


def test_nodes_are_listed(bare_home: Home) -> None:
    lines = bare_home.ok("check", "spec.yaml", "--nodes").splitlines()
    assert [line.split() for line in lines[-8:]] == [
        ["node", "queue"],
        *(["mesh_A.1", "mesh_1"], ["mesh_A.2", "mesh_2"], ["solve_A.1", "sim"], ["solve_A.2", "sim"]),
        *(["mean_A.1", "sim"], ["mean_A.2", "sim"], ["report", "sim"]),
    ]


def test_mermaid_and_dot_are_alone_on_stdout_and_tell_the_edges_apart(bare_home: Home) -> None:
    bare_home.write("spec.yaml", SPEC.replace("name: report", "name: 'the \"end\"'"))
    assert bare_home.ok("check", "spec.yaml", "--format", "mermaid") == (
        "flowchart TD\n"
        '  v0["mesh<br/>2 nodes × 6 samples"]\n'
        '  v1["solve<br/>2 nodes × 6 samples"]\n'
        '  v2["mean<br/>2 nodes"]\n'
        '  v3["the #34;end#34;<br/>1 node"]\n'
        "  v0 -->|each| v1\n"
        "  v1 ==>|all| v2\n"
        "  v2 -.->|barrier| v3\n"
    )
    assert bare_home.ok("check", "spec.yaml", "--format", "dot") == (
        "digraph study {\n"
        "  node [shape=box];\n"
        '  v0 [label="mesh\\n2 nodes × 6 samples"];\n'
        '  v1 [label="solve\\n2 nodes × 6 samples"];\n'
        '  v2 [label="mean\\n2 nodes"];\n'
        '  v3 [label="the \\"end\\"\\n1 node"];\n'
        '  v0 -> v1 [label="each", style=solid];\n'
        '  v1 -> v2 [label="all", style=bold];\n'
        '  v2 -> v3 [label="barrier", style=dashed];\n'
        "}\n"
    )


def test_barrier_joins_nodes_in_one_point(bare_home: Home) -> None:
    drawn = bare_home.ok("check", "spec.yaml", "--format", "mermaid", "--nodes")
    assert '  v7(["all of mean"])\n' in drawn
    assert [line for line in drawn.splitlines() if "barrier" in line] == [
        "  v4 -.->|barrier| v7", "  v5 -.->|barrier| v7", "  v7 -.->|barrier| v6",
    ]  # fmt: skip


def test_diamond_in_text_names_the_other_parent(bare_home: Home) -> None:
    bare_home.write(
        "spec.yaml",
        """
        description: {name: diamond, description: x}
        study:
          - {name: top, description: x, run: {cmd: echo}}
          - {name: left, description: x, run: {cmd: echo, depends: [top]}}
          - {name: right, description: x, run: {cmd: echo, depends: [top]}}
          - {name: bottom, description: x, run: {cmd: echo, depends: [left, right]}}
        """,
    )
    assert (
        "top  1 node\n"
        "├─all→ left  1 node\n"
        "│  └─all→ bottom  1 node  (after all right)\n"
        "└─all→ right  1 node\n"
    ) in bare_home.ok("check", "spec.yaml", "--graph")  # fmt: skip


def test_all_problems_are_told_at_once_with_line_and_suggestion(bare_home: Home) -> None:
    bare_home.write("spec.yaml", SPEC.replace("depends: [mesh]", "depends: [mesch]").replace("restart:", "restrat:"))
    done = bare_home.run("check", "spec.yaml")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("error: ") == 2
    assert re.search(
        r"at spec\.yaml:9:\d+\n +run: \{cmd: 'echo \$\(X\) \$\(A\)'.*\n  fix: Did you mean 'restart'", done.stderr
    )
    assert re.search(r"at spec\.yaml:12:\d+\n", done.stderr)
    assert "fix: Did you mean 'mesh'?" in done.stderr
    value = json.loads(bare_home.run("check", "spec.yaml", "--json").stdout)
    assert [problem["line"] for problem in value["error"]["problems"]] == [9, 12]
    untouched(bare_home)


@pytest.mark.parametrize("names", TENS[::4], ids=lambda names: names[0])
def test_ten_mistakes_are_ten_problems_each_with_its_line_in_file_order(bare_home: Home, names: list[str]) -> None:
    text, expected = with_mistakes(names)
    (bare_home.work / "spec.yaml").write_text(text)
    bare_home.write("samples.csv", "1,2,3\n")
    done = bare_home.run("check", "spec.yaml")
    assert (done.returncode, done.stdout) == (3, "")
    lines = text.split("\n")
    told = re.findall(r"^error: .*\n  at spec\.yaml:(\d+):(\d+)\n     (.*)$", done.stderr, re.MULTILINE)
    assert told == [(str(line), str(column), lines[line - 1].strip()) for line, column, _ in expected]
    assert done.stderr.endswith("10 problems; nothing was queued.\n")


@pytest.mark.slow
def test_wrong_sample_file_and_unknown_variable(bare_home: Home) -> None:
    done = bare_home.run("check", "spec.yaml", "--vars", "NN=3")
    assert (done.returncode, "--vars sets 'NN'" in done.stderr) == (3, True)
    bare_home.write("table.csv", "1,2\n")
    done = bare_home.run("check", "spec.yaml")
    assert (done.returncode, "2 columns, and column_labels names 1" in done.stderr) == (3, True)


@pytest.mark.slow
def test_fifty_thousand_nodes_and_deep_chains_are_checked_in_seconds(bare_home: Home) -> None:
    values = ", ".join(map(str, range(25_000)))
    bare_home.write(
        "wide.yaml",
        f"""
        description: {{name: wide, description: x}}
        global.parameters:
          A: {{values: [{values}], label: A.%%}}
        study:
          - {{name: one, description: x, run: {{cmd: echo $(A)}}}}
          - {{name: two, description: x, run: {{cmd: echo, depends: [one]}}}}
          - {{name: three, description: x, run: {{cmd: echo, depends: [two_*]}}}}
        """,
    )
    steps = [
        f"  - {{name: s{number}, description: x, run: {{cmd: echo, depends: [{f's{number - 1}' if number else ''}]}}}}"
        for number in range(1500)
    ]
    bare_home.write("deep.yaml", "description: {name: deep, description: x}\nstudy:\n" + "\n".join(steps))
    began = time.monotonic()
    wide, deep = bare_home.all("check wide.yaml --graph --nodes", "check deep.yaml --graph")
    assert time.monotonic() - began < 30
    assert "50,001 nodes" in wide.stdout
    assert "└─barrier→ three  1 script" in wide.stdout
    assert deep.stdout.splitlines()[-3].strip() == "└─all→ s1499  1 node  (after all s1498)"
    assert len(wide.stdout) < 10_000_000


def test_check_tells_what_a_sample_of_each_step_takes_of_its_worker(home: Home) -> None:
    text = """
description: {name: sizes, description: d}
study:
  - {name: a, description: d, run: {cmd: 'run $(P)', procs: $(P), gpus: 1, resources: {licenses/foo: $(P)}}}
  - {name: b, description: d, run: {cmd: run, procs: 2, cores per task: 4, exclusive: yes}}
global.parameters:
  P: {values: [1, 2], label: P.%%}
"""
    spec = home.write("sizes.yaml", text)
    shown = home.run("check", str(spec)).stdout
    assert "cpus=1, gpus=1, licenses/foo=1 | cpus=2, gpus=1, licenses/foo=2" in shown
    assert "cpus=8, exclusive" in shown
    steps = json.loads(home.run("--json", "check", str(spec)).stdout)["steps"]
    rest = {"slots": 1, "gpus": 1, "exclusive": False}
    assert [step["takes"] for step in steps] == [
        [{"cpus": 1, "licenses/foo": 1, **rest}, {"cpus": 2, "licenses/foo": 2, **rest}],
        [{"slots": 1, "cpus": 8, "exclusive": True}],
    ]
