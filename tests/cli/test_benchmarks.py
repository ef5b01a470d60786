"""Each benchmark runs in its smallest form and prints the figures that benchmarks/README.md tells of."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.marks import MARK_EVERY, Marks, Slice, tree_cpu_s, value_of
from benchmarks.turns import Rounds, Turn, compared, play, turns_of

TOP = Path(__file__).resolve().parents[2]


def run(*words: str, code: int = 0) -> dict[str, Any]:
    """`python -m benchmarks …`; the one JSON value that it prints."""
    # Warnings of third parties' clients are no errors here: their output goes to stderr, and is shown if it fails.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MRUN_")}
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words, "--smallest"],
        cwd=TOP, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == code, f"{ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    value: dict[str, Any] = json.loads(ended.stdout)
    return value


def found_by(name: str) -> dict[str, Any]:
    value = run(name)
    assert value["machine"]["cores"] >= 1
    found: dict[str, Any] = value["benchmarks"][name]
    assert found["question"] == name
    return found


@pytest.mark.slow
def test_enqueue_is_compared_with_an_entry_for_each_sample_and_drawn(tmp_path):
    value = run("enqueue", "--results", str(tmp_path))
    found = value["benchmarks"]["enqueue"]
    assert [row["samples"] for row in found["rows"]] == [100, 100_000_000]
    assert found["eager"]["entries_per_s"] > 0
    assert json.loads((tmp_path / "enqueue.json").read_text())["rows"] == found["rows"]
    assert (tmp_path / "enqueue.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_dispatch_tells_what_a_task_costs_the_server_and_a_bare_entry():
    found = found_by("dispatch")
    for row in found["rows"]:
        assert row["samples_per_s"] == row["tasks_per_s"] * row["bite"]
        assert row["server_us_per_task"] > 0
        assert row["log_bytes_per_task"] > 0
        assert set(row["ratio"]) == set(found["bare"])


@pytest.mark.slow
def test_latencies_are_judged_against_a_bare_spawn():
    found = found_by("latency")
    assert set(found["rows"]) == {"spawn", "commit", "queue", "child", "child_elsewhere"}
    assert all(row["p99_ms"] >= row["p50_ms"] > 0 for row in found["rows"].values())
    assert found["rows"]["spawn"]["p99_over_spawn_ms"] == 0


@pytest.mark.slow
def test_idle_workers_have_two_connections_each_at_least():
    found = found_by("idle")
    assert found["connections"] >= 2 * found["workers"]
    assert "fcall" in found["commands"]


def test_startup_is_judged_against_a_bare_python():
    found = found_by("startup")
    assert found["wall_over_python"]["python"] == 1
    assert found["wall_ms"]["run"] > found["wall_ms"]["help"] > found["wall_ms"]["python"]


@pytest.mark.slow
def test_nodes_and_status_tell_their_sizes():
    value = run("nodes", "status")["benchmarks"]
    assert {row["shape"] for row in value["nodes"]["rows"]} == {"deep", "wide"}
    assert all(row["queue_s"] > 0 for row in value["nodes"]["rows"])
    assert value["status"]["nodes"] == 500
    assert value["status"]["median_ms"]["mrun_help"] > value["status"]["median_ms"]["python"]


@pytest.mark.slow
def test_execute_leaves_out_with_a_reason_what_this_mrun_refuses():
    found = found_by("execute")
    assert {"full", "xargs", "spawn_full", "spawn_bare"} <= set(found["rows"])
    assert not set(found["left_out"]) & set(found["rows"])
    assert all(found["left_out"].values())
    assert {"full/spawn_full", "full/xargs", "lean/xargs"} == set(found["ratios"]) == set(found["cpu_ratios"])
    for name, ratio in found["ratios"].items():
        assert found["ratios_spread"][name] == {"lowest": ratio, "highest": ratio, "rounds": 1}
    # A shell's start is in all of them, and the server has a part in mrun's rows only.
    assert all(row["cpu_ms_per_sample"] > 0.1 for row in found["rows"].values())
    assert found["rows"]["full"]["server_cpu_ms_per_sample"] > 0 == found["rows"]["xargs"]["server_cpu_ms_per_sample"]


def test_a_rate_is_read_in_the_middle_of_a_slice(tmp_path):
    marks = Marks(tmp_path / "marks")
    # Given a mark every 8 ms, but a slow start, a slow end, and marks in the order in which two slots happened to write
    times = [0.0, *(10 + 0.008 * number for number in range(38)), 30.0]
    marks.path.write_text("".join(f"{time}\n" for time in (*times[1::2], *times[::2])))
    # I expect a sample to take a millisecond
    assert marks.is_complete(40 * MARK_EVERY)
    assert marks.wall_s(40 * MARK_EVERY) == pytest.approx(0.001)
    # and no figure of a slice of which a mark is missing
    with pytest.raises(RuntimeError, match="40 marks of 41"):
        marks.wall_s(41 * MARK_EVERY)


def test_the_text_of_a_slice_writes_a_mark_for_every_eighth_sample(tmp_path):
    marks = Marks(tmp_path / "marks")
    script = "\n".join(marks.text(str(value_of(sample))) for sample in range(3 * MARK_EVERY))
    subprocess.run(["bash", "-ec", script], check=True)
    assert marks.is_complete(3 * MARK_EVERY)
    marks.clear()
    assert not marks.is_complete(3 * MARK_EVERY)


def test_rows_stand_between_their_baselines_and_share_them():
    assert turns_of({"a": ("x", "s"), "b": ("x",), "c": ("y",)}) == ["x", "s", "a", "s", "x", "b", "x", "y", "c", "y"]


def test_a_machine_that_grows_slower_does_not_turn_a_ratio_and_one_spoilt_round_does_not_either():
    # Given a row that takes twice as long as its baseline, on a machine that grows slower at a steady pace
    steady = [Turn(name, Slice(cost, cost)) for name, cost in (("x", 1.0), ("a", 2 * 1.2), ("x", 1.4))]
    # and a round in which a neighbour had half of the row's time
    spoilt = [steady[0], Turn("a", Slice(4.8, 2.4)), steady[2]]
    # I expect the median to tell the truth, and the spread to tell of the neighbour
    medians, spread = compared([steady, spoilt, steady], [("a", "x")], lambda one: one.wall_s)
    assert medians == {"a/x": 0.5}
    assert spread == {"a/x": {"lowest": 0.25, "highest": 0.5, "rounds": 3}}


def test_rounds_end_with_the_time_that_they_have_but_there_are_some():
    timers = {"x": lambda samples: Slice(samples, samples)}
    assert len(play(["x", "x"], timers, {"x": 8}, Rounds(seconds=0, least=2, most=5))) == 2
    assert len(play(["x", "x"], timers, {"x": 8}, Rounds(seconds=60, least=2, most=5))) == 5


def test_cpu_time_of_a_tree_holds_children_that_run_and_those_that_have_ended():
    burn = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
    # Given a shell below a shell that has burnt time in a child that ended, and one that still runs
    with subprocess.Popen(
        ["bash", "-c", f"( {burn} ); bash -c '{burn}; echo ready; read -r line'; true"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as shell:  # fmt: skip
        assert shell.stdout.readline() == "ready\n"
        seen = tree_cpu_s(shell.pid)
        shell.stdin.write("go\n")
        shell.stdin.flush()
        _, _, used = os.wait4(shell.pid, 0)
        shell.returncode = 0
    # I expect what the kernel says at the end, but for ticks
    assert seen == pytest.approx(used.ru_utime + used.ru_stime, abs=0.08)
    assert seen > 0.1


@pytest.mark.slow
def test_samples_of_different_sizes_share_a_worker_and_nothing_else():
    (found,) = found_by("resources")["rows"].values()
    assert (found["overlaps"], found["wrong_numbers_of_cpus"]) == (0, 0)
    assert set(found["steps"]) == {"one", "two", "four", "gpu"}
    assert 0 < found["busy"] <= 1


def test_durability_is_compared_with_the_default_and_with_the_disk_itself():
    found = found_by("durability")
    assert found["flush_ms"]["p50_ms"] > 0
    assert set(found["rows"]) == {"everysec", "strict", "strict_waiting"}
    assert all(row["ratio"]["end_ms"] > 0 for row in found["rows"].values())
    assert found["rows"]["everysec"]["ratio"] == {"commit_ms": 1.0, "end_ms": 1.0, "tasks_per_s": 1.0}


@pytest.mark.skipif(
    all(importlib.util.find_spec(name) for name in ("celery", "streaq")), reason="the peers are installed here"
)
def test_missing_peers_are_told_with_what_to_install():
    value = run("peers", code=1)
    assert "pip install 'mrun[peers]'" in value["benchmarks"]["peers"]["error"]
