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


def test_enqueue_is_compared_with_an_entry_for_each_sample_and_drawn(tmp_path):
    value = run("enqueue", "--results", str(tmp_path))
    found = value["benchmarks"]["enqueue"]
    assert [row["samples"] for row in found["rows"]] == [100, 100_000_000]
    assert found["eager"]["entries_per_s"] > 0
    assert json.loads((tmp_path / "enqueue.json").read_text())["rows"] == found["rows"]
    assert (tmp_path / "enqueue.png").read_bytes().startswith(b"\x89PNG")


def test_dispatch_tells_what_a_task_costs_the_server_and_a_bare_entry():
    found = found_by("dispatch")
    for row in found["rows"]:
        assert row["samples_per_s"] == row["tasks_per_s"] * row["bite"]
        assert row["server_us_per_task"] > 0
        assert row["log_bytes_per_task"] > 0
        assert set(row["ratio"]) == set(found["bare"])


def test_latencies_are_judged_against_a_bare_spawn():
    found = found_by("latency")
    assert set(found["rows"]) == {"spawn", "commit", "queue", "child", "child_elsewhere"}
    assert all(row["p99_ms"] >= row["p50_ms"] > 0 for row in found["rows"].values())
    assert found["rows"]["spawn"]["p99_over_spawn_ms"] == 0


def test_idle_workers_have_two_connections_each_at_least():
    found = found_by("idle")
    assert found["connections"] >= 2 * found["workers"]
    assert "evalsha" in found["commands"]


def test_nodes_and_status_tell_their_sizes():
    value = run("nodes", "status")["benchmarks"]
    assert {row["shape"] for row in value["nodes"]["rows"]} == {"deep", "wide"}
    assert all(row["queue_s"] > 0 for row in value["nodes"]["rows"])
    assert value["status"]["nodes"] == 500
    assert value["status"]["median_ms"]["mrun_help"] > value["status"]["median_ms"]["python"]


def test_execute_leaves_out_with_a_reason_what_this_mrun_refuses():
    found = found_by("execute")
    assert {"full", "xargs", "spawn_full", "spawn_bare"} <= set(found["rows"])
    assert not set(found["left_out"]) & set(found["rows"])
    assert all(found["left_out"].values())


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
