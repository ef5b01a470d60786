"""cancel, stop, purge, wait, selectors, server; and stdout as a pipe wants it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.homes import Home, ended
from tests.conftest import wait_until


def queue_gated(home: Home, name: str, samples: int = 2) -> str:
    """A study whose samples wait until the file `<name>.gate` is there, on a queue of its own name."""
    home.write(f"{name}.csv", "".join(f"{number}\n" for number in range(samples)))
    home.write(
        f"{name}.yaml",
        f"""
        description: {{name: {name}, description: x}}
        env: {{variables: {{OUTPUT_PATH: ./{name}}}}}
        study:
          - name: sim
            description: x
            run:
              cmd: 'touch started; until [ -e "$(SPECROOT)/{name}.gate" ]; do sleep 0.02; done; echo $(X)'
              task_queue: {name}
        merlin: {{samples: {{file: {name}.csv, column_labels: [X]}}}}
        """,
    )
    return home.queue(f"{name}.yaml")


def open_gate(home: Home, name: str) -> None:
    (home.work / f"{name}.gate").touch()


def wait_started(home: Home, name: str, count: int = 1) -> None:
    wait_until(lambda: len(list(home.work.glob(f"{name}/*/sim/*/started"))) >= count, "samples run")


def start_worker(home: Home, queue: str) -> subprocess.Popen[str]:
    return home.start("work", "--queues", queue, "--slots", "1", "--exit-when-done")


# --------------------------------------------------------------------------------------------------------- cancel, stop


def test_cancel_ends_running_samples_within_three_seconds(shared_home: Home) -> None:
    study = queue_gated(shared_home, "cancelled")
    worker = start_worker(shared_home, "cancelled")
    wait_started(shared_home, "cancelled")
    done = shared_home.run("cancel", study)
    began = time.monotonic()
    assert done.stdout == f"{study}  stopped; 1 sample was running and will be ended\n"
    assert ended(worker).returncode == 0
    assert time.monotonic() - began < 3.5, "2 s until the next beat, and the worker's own end"
    (status,) = shared_home.json("status", study)
    assert (status["state"], status["steps"][0]["cancelled"]) == ("cancelled", 2)
    assert shared_home.run("wait", study).returncode == 7
    again = shared_home.run("cancel", study)
    assert (again.returncode, again.stdout) == (0, f"{study}  had ended already\n")


@pytest.mark.slow
def test_cancel_may_let_running_samples_finish(shared_home: Home) -> None:
    study = queue_gated(shared_home, "letting")
    worker = start_worker(shared_home, "letting")
    wait_started(shared_home, "letting")
    (answer,) = shared_home.json("cancel", study, "--let-finish")
    assert answer == {"study": study, "status": "ok", "running": 1}
    open_gate(shared_home, "letting")
    assert ended(worker).returncode == 0
    (status,) = shared_home.json("status", study)
    assert (status["state"], status["steps"][0]["finished"], status["steps"][0]["cancelled"]) == ("cancelled", 1, 1)


@pytest.mark.slow
def test_stop_reaches_the_workers_of_a_queue_and_no_others(home: Home) -> None:
    queue_gated(home, "left")
    queue_gated(home, "right")
    left, right = start_worker(home, "left"), start_worker(home, "right")
    wait_started(home, "left")
    wait_started(home, "right")
    stopping = home.start("stop", "--queues", "left", "--wait")
    wait_until(lambda: b"drain" in worker_requests(home), "the worker is asked")
    assert stopping.poll() is None, "it waits for the running sample"
    open_gate(home, "left")
    assert "1 worker stopped\n" in ended(stopping).stdout
    assert ended(left).returncode == 0
    assert right.poll() is None
    open_gate(home, "right")
    assert ended(right).returncode == 0
    (status, _) = home.json("status")
    assert (status["steps"][0]["finished"], status["steps"][0]["ready"]) == (1, 1)
    assert home.ok("stop") == "0 workers asked to stop\n"
    assert home.run("stop", "nobody").returncode == 4


def worker_requests(home: Home) -> list[bytes]:
    with home.server() as client:
        return [str(client.hget(f"{{mrun}}:2:worker:{name}", "request")).encode() for name in home.worker_names()]


# --------------------------------------------------------------------------------------------------------- purge, wait


@pytest.mark.slow
def test_purge_asks_before_it_removes(home: Home) -> None:
    studies = [queue_gated(home, "one"), queue_gated(home, "two")]
    # Nobody is there to ask
    refused = home.run("purge", "all")
    assert refused.returncode == 2
    assert "This would remove 2 studies" in refused.stderr
    assert "--yes" in refused.stderr
    assert refused.stdout == ""
    # Somebody says no
    code, screen = on_terminal(home, ["purge", studies[0]], b"n\n")
    assert "remove 1 study" in screen
    assert code == 130
    assert home.ok("status", "-q").split() == studies
    # Somebody says yes
    code, _ = on_terminal(home, ["purge", studies[0]], b"y\n")
    assert code == 0
    assert home.ok("status", "-q").split() == studies[1:]
    # By queue, unasked
    assert home.ok("purge", "--queues", "elsewhere", "--yes") == "0 studies removed\n"
    assert home.json("purge", "--queues", "two", "--yes") == {"studies": studies[1:]}
    assert home.json("status") == []
    assert [path.is_dir() for name in ("one", "two") for path in home.study_dirs(name)] == [True, True]
    with home.server() as client:
        assert [key for key in client.scan_iter() if "study:" in key or "queue:" in key] == []


def test_wait_gives_up_after_its_time_and_says_who_is_missing(shared_home: Home) -> None:
    study = queue_gated(shared_home, "waiting")
    done = shared_home.run("wait", study, "--timeout", "0.1")
    assert done.returncode == 130
    assert "no worker listens to queue 'waiting'" in done.stderr
    assert "not ended after 0.1 s; it goes on" in done.stderr
    assert shared_home.run("wait", study, "--timeout", "0.1", "--json").returncode == 130
    shared_home.ok("cancel", study)


@pytest.mark.slow
def test_selectors(home: Home) -> None:
    first, second = queue_gated(home, "first"), queue_gated(home, "second")
    (workspace,) = home.study_dirs("first")
    prefix = next(first[:length] for length in range(1, 9) if not second.startswith(first[:length]))
    for selector, found in (
        (first, [first]),
        (prefix, [first]),
        (str(workspace), [first]),
        (f"./first/{workspace.name}/", [first]),
        ("last", [second]),
        ("all", [first, second]),
    ):
        done = home.run("status", selector, "-q")
        assert done.stdout.split() == found, selector
    nothing = home.run("status", "")
    assert nothing.returncode == 4


def test_unknown_study_or_worker_is_not_found(shared_home: Home) -> None:
    commands = ["status nosuch", "wait nosuch", "cancel nosuch", "purge nosuch --yes", "stop nosuch"]
    for command, done in zip(commands, shared_home.all(*commands), strict=True):
        assert done.returncode == 4, command
        assert "'nosuch'" in done.stderr
        assert "fix: " in done.stderr
        assert done.stdout == ""
    as_json = shared_home.run("status", "nosuch", "--json")
    assert as_json.returncode == 4
    assert json.loads(as_json.stdout)["error"]["exit_code"] == 4


# --------------------------------------------------------------------------------------------------------- server


def test_server_is_started_shown_and_stopped_and_keeps_what_it_holds(home: Home) -> None:
    for words in ("server status", "status", "inspect", "wait last"):
        done = home.run(*words.split())
        assert done.returncode == (4 if words == "server status" else 5), words
        assert "fix: " in done.stderr
        assert done.stdout == ""
    study = queue_gated(home, "kept")
    facts = home.json("server", "status")
    assert facts["state"] == "runs"
    assert facts["url"].startswith(f"unix://{home.directory}/run/")
    assert Path(f"/proc/{facts['pid']}").exists()
    assert facts["durability"] == "everysec"
    # The first strict command makes it strict, until it is stopped
    assert home.json("server", "start", "--durability", "strict")["durability"] == "strict"
    assert "durability strict" in home.ok("server", "status")
    assert facts["libraries"] == 1
    assert "runs already" in home.ok("server", "start")
    assert home.ok("server", "stop") == "stopped\n"
    assert home.ok("server", "stop") == "it was not running\n"
    again = home.json("server", "start")
    assert (again["state"], again["durability"]) == ("started", "everysec")
    assert home.ok("status", "-q").strip() == study


# --------------------------------------------------------------------------------------------------------- the terminal


def on_terminal(home: Home, words: list[str], typed: bytes = b"", **environ: str) -> tuple[int, str]:
    """Run a command on a terminal of its own; its exit code and what was on the screen."""
    master, slave = pty.openpty()
    process = home.start(*words, environ={"TERM": "xterm-256color", **environ}, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    os.write(master, typed)
    screen = b""
    try:
        while part := os.read(master, 65536):
            screen += part
    except OSError:
        pass  # Linux' way to say that nobody has the other end open
    os.close(master)
    return process.wait(20), screen.decode()


def test_colour_is_for_terminals_that_want_it(shared_home: Home) -> None:
    study = queue_gated(shared_home, "colours")
    shared_home.ok("cancel", study)
    code, screen = on_terminal(shared_home, ["status", study])
    assert code == 0
    assert "\x1b[33mcancelled" in screen
    code, screen = on_terminal(shared_home, ["status", study], NO_COLOR="1")
    assert "\x1b[3" not in screen
    assert "cancelled" in screen
    assert "\x1b" not in shared_home.ok("status", study)


def test_live_display_shows_steps_and_leaves_a_report(home: Home) -> None:
    queue_gated(home, "shown", samples=1)
    worker = start_worker(home, "shown")
    open_gate(home, "shown")
    code, screen = on_terminal(home, ["wait", "last"], TERM="xterm", COLUMNS="120", LINES="30")
    assert code == 0
    assert "1/1" in screen
    assert "finished" in screen
    assert ended(worker).returncode == 0


@pytest.mark.slow
def test_reader_that_goes_away_is_no_error(shared_home: Home) -> None:
    queue_gated(shared_home, "piped")
    read_end, write_end = os.pipe()
    os.close(read_end)
    commands = ["status", "status all --json", "status -q", "inspect"]
    processes = [shared_home.start(*command.split(), stdout=write_end) for command in commands]
    os.close(write_end)
    for command, process in zip(commands, processes, strict=True):
        _, told = process.communicate(timeout=20)
        assert process.returncode == 0, (command, told)
        assert told == "" or "no worker listens" in told


def test_unknown_words_are_usage_errors(shared_home: Home) -> None:
    fixes = {
        "statsu": "Did you mean 'status'?",
        "work": "mrun work --queues sim,train",
        "status --nosuch": "--help",
        "run": "--help",
        "work --queues ,": "--queues",
    }
    for (words, fix), done in zip(fixes.items(), shared_home.all(*fixes), strict=True):
        assert done.returncode == 2, words
        assert fix in done.stderr
        assert done.stdout == ""
