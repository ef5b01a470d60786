"""How many trivial samples a second does one worker run, end to end?

One bash script of one line for each sample, on as many slots as cores, in slices of some hundred samples (marks.py).
A row is compared with its baselines right before and right after it, round by round (turns.py).

* `full`, `lean`, `packed`: mrun with the spec's `samples.files` of that name; `warm_full`, `warm_lean`: the same with
  `warm: true`. Each has one worker, started once; it waits without work while others have their turn, and each slice
  is a study that is queued for it. A row that this mrun refuses is left out, and `left_out` says why.
* `xargs`: `xargs -P` gives one number at a time to `bash script`; no file is made. `parallel`: GNU parallel likewise,
  if it is installed; it is slow, and has short slices.
* `spawn_full`: a loop in Python around `posix_spawn` that makes the same directories and files as `full`;
  `spawn_bare`: the same loop without any file.

`samples_per_s` and `ratios` are of wall time, in the middle of a slice. `cpu_ratios` are of CPU time: for mrun that of
the worker with its guard, shells and scripts, and of the server; for the others that of the command and its scripts.
They travel better: they do not hear of a core that somebody else has, but still of a cache that he uses. They count
whole slices, each with what a worker does for a new study, and say nothing of cores that wait. `ratios_spread` and
`cpu_ratios_spread` are the lowest and the highest of the rounds. `start_and_end_s` is what `mrun work --exit-when-done`
takes for two samples, start and end of its process and its last look for work included; it is in no other figure.
`directory_us` is what it costs this file system to make a directory, before and after all else: `full` and `lean` make
one for each sample, `xargs` none.

Takes about three minutes. Does not show: network file systems; studies of many samples, whose claims are longer, so
that each sample pays less for them.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage, struct_rusage
from typing import Any

import numpy as np

from benchmarks.figures import Size, main_of
from benchmarks.marks import Marks, Slice, Timer, tree_cpu_s, value_of
from benchmarks.stage import MRUN, Stage, stage
from benchmarks.turns import Round, Rounds, compared, costs, play, turns_of

#: Row → the spec's `files`, and whether shells are warm.
MRUN_ROWS = {
    "full": ("full", False),
    "lean": ("lean", False),
    "packed": ("packed", False),
    "warm_full": ("full", True),
    "warm_lean": ("lean", True),
}
#: Row → what it is measured against.
AGAINST = {name: ("xargs", "spawn_full") if name == "full" else ("xargs",) for name in MRUN_ROWS}
#: Rows that are only shown.
SHOWN = ("spawn_bare", "parallel")
SPEC = """
description: {{name: {name}, description: one trivial step}}
study:
  - name: a
    description: a step
    run: {{cmd: "{text}", task_queue: {name}{warm}}}
merlin:
  samples: {{file: {table}, column_labels: [X], level_max_dirs: {fan_out}{files}}}
"""
FAN_OUT = 100
#: Directories that are made to see what one costs.
_DIRECTORIES = 500
#: A run of so few samples is all start and end.
FEWEST = 2
CORES = len(os.sched_getaffinity(0))
#: A slice that has not ended by then never will.
PATIENCE_S = 60
#: So long may a worker without work take to end.
END_S = 10


def marks_of(on: Stage) -> Marks:
    """Of all rows: they have turns."""
    return Marks(on.directory / "marks")


def _write_spec(on: Stage, name: str, samples: int) -> Path:
    files, is_warm = MRUN_ROWS[name]
    table = on.directory / f"samples-{samples}.npy"
    np.save(table, np.array([value_of(sample) for sample in range(samples)], dtype="<i8"))
    path = on.directory / f"{name}.yaml"
    path.write_text(
        SPEC.format(
            name=name,
            text=marks_of(on).text("$(X)"),
            fan_out=FAN_OUT,
            table=table,
            # What is default is left out: an older mrun does not know the keys.
            files="" if files == "full" else f", files: {files}",
            warm=", warm: true" if is_warm else "",
        )
    )
    return path


def refusal(on: Stage, name: str) -> str:
    """Why this mrun does not run such a study; empty if it does."""
    words = [MRUN, "check", str(_write_spec(on, name, FEWEST))]
    checked = subprocess.run(words, cwd=on.directory, env=on.environment, capture_output=True, text=True, check=False)
    return "" if checked.returncode == 0 else checked.stderr.strip().splitlines()[0]


def time_start_and_end(on: Stage, name: str) -> float:
    """Seconds from `mrun work`'s start to its end, for a study of so few samples that they take no time."""
    on.queue_here(_write_spec(on, name, FEWEST))
    began = time.perf_counter()
    on.mrun("work", "--queues", name, "--slots", CORES, "--exit-when-done")
    return time.perf_counter() - began


def time_directory(on: Stage) -> float:
    """Microseconds that it takes to make one, beside the workspaces of the studies."""
    top = on.directory / f"directories-{time.monotonic_ns()}"
    top.mkdir()
    names = [f"{top}/{number}" for number in range(_DIRECTORIES)]
    began = time.perf_counter()
    for name in names:
        os.mkdir(name)
    return round(1e6 * (time.perf_counter() - began) / _DIRECTORIES, 1)


@contextmanager
def mrun_timers(on: Stage, names: Sequence[str]) -> Iterator[dict[str, Timer]]:
    """Row → its timer. Their workers live, and wait, until the block's end."""
    workers = {name: on.start("work", "--queues", name, "--slots", CORES) for name in names}
    try:
        while on.client.zcard("{mrun}:2:workers") < len(workers):
            _see_alive(on, *workers.values())
            time.sleep(0.02)
        yield {name: partial(_time_mrun, on, name, worker) for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.terminate()
        for worker in workers.values():
            try:
                worker.wait(END_S)
            except subprocess.TimeoutExpired:
                # Its engine sees the guard go, and ends.
                worker.kill()
                worker.wait()


def _time_mrun(on: Stage, name: str, worker: subprocess.Popen[bytes], samples: int) -> Slice:
    """One study for a worker that waits, from before it is queued until it has ended."""
    marks, spec = marks_of(on), _write_spec(on, name, samples)
    marks.clear()
    last = _last_event(on)
    cpu_s, server_s = tree_cpu_s(worker.pid), on.server_seconds()
    on.queue_here(spec)
    deadline = time.monotonic() + PATIENCE_S
    while not on.client.xread({"{mrun}:2:events": last}, block=1000):
        _see_alive(on, worker, deadline=deadline)
    cpu_s, server_s = tree_cpu_s(worker.pid) - cpu_s, on.server_seconds() - server_s
    return Slice(marks.wall_s(samples), cpu_s / samples, server_s / samples)


def _last_event(on: Stage) -> str:
    """Of the studies that have ended, the last one's entry."""
    entries: list[Any] = on.client.xrevrange("{mrun}:2:events", count=1) or []
    return entries[0][0].decode() if entries else "0"


def _see_alive(on: Stage, *workers: subprocess.Popen[bytes], deadline: float | None = None) -> None:
    is_late = deadline is not None and time.monotonic() > deadline
    if is_late or any(worker.poll() is not None for worker in workers):
        raise RuntimeError((on.directory / "background.log").read_text()[-2000:])


def _time_xargs(on: Stage, samples: int) -> Slice:
    return _time_piped(on, ["xargs", "-P", str(CORES), "-n", "1", "bash", str(script_of(on))], samples)


def _time_parallel(on: Stage, samples: int) -> Slice:
    return _time_piped(on, ["parallel", "--jobs", str(CORES), "bash", str(script_of(on))], samples)


def script_of(on: Stage) -> Path:
    """The same script, which takes its value as an argument."""
    path = on.directory / "script.sh"
    path.write_text(f"#!/bin/bash\n\n{marks_of(on).text('$1')}\n")
    return path


def _time_piped(on: Stage, command: list[str], samples: int) -> Slice:
    """A command that is given numbers, a line each."""
    numbers, marks = on.directory / "numbers", marks_of(on)
    numbers.write_text("".join(f"{value_of(sample)}\n" for sample in range(samples)))
    marks.clear()
    with numbers.open("rb") as stdin:
        started = subprocess.Popen(command, stdin=stdin, stderr=subprocess.DEVNULL)
    # Not `wait`: this way the kernel says what it used, with all that it has waited for.
    _, status, used = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {started.returncode}: its rate means nothing.")
    return Slice(marks.wall_s(samples), _used_s(used) / samples)


def _used_s(*usages: struct_rusage) -> float:
    return sum(one.ru_utime + one.ru_stime for one in usages)


def _time_spawn_bare(on: Stage, samples: int) -> Slice:
    script = str(script_of(on))

    def start(number: int) -> int:
        words = ["bash", script, str(value_of(number))]
        return os.posix_spawn("/bin/bash", words, on.environment, setpgroup=0)

    return _time_loop(on, start, lambda number: None, samples)


def _time_spawn_full(on: Stage, samples: int) -> Slice:
    """What mrun leaves behind for each sample, by the fewest steps."""
    top = on.directory / f"spawn-{time.monotonic_ns()}"
    top.mkdir()
    texts = [f"#!/bin/bash\n\n{marks_of(on).text(str(value))}\n".encode() for value in (0, 1)]
    here = os.getcwd()

    def start(number: int) -> int:
        directory = f"{top}/{number // FAN_OUT:02}/{number % FAN_OUT:02}"
        try:
            os.mkdir(directory)
        except FileNotFoundError:
            os.makedirs(directory)
        os.chdir(directory)  # posix_spawn has no directory of its own; nothing else runs in this process
        script = os.open("a.sh", os.O_WRONLY | os.O_CREAT, 0o755)
        os.write(script, texts[value_of(number)])
        os.close(script)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        files = [(os.POSIX_SPAWN_OPEN, fd, name, flags, 0o666) for fd, name in ((1, "a.out"), (2, "a.err"))]
        return os.posix_spawn("a.sh", ["a.sh"], on.environment, file_actions=files, setpgroup=0)

    def end(number: int) -> None:
        marker = f"{top}/{number // FAN_OUT:02}/{number % FAN_OUT:02}/MERLIN_FINISHED"
        os.close(os.open(marker, os.O_WRONLY | os.O_CREAT, 0o666))

    try:
        return _time_loop(on, start, end, samples)
    finally:
        os.chdir(here)


def _time_loop(on: Stage, start: Callable[[int], int], end: Callable[[int], None], samples: int) -> Slice:
    """A loop that keeps as many processes running as there are cores."""
    marks, running = marks_of(on), dict[int, int]()
    marks.clear()
    cpu_s = _used_s(getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN))
    for number in range(samples):
        if len(running) == CORES:
            end(_reap(running))
        running[start(number)] = number
    while running:
        end(_reap(running))
    cpu_s = _used_s(getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)) - cpu_s
    return Slice(marks.wall_s(samples), cpu_s / samples)


def _reap(running: dict[int, int]) -> int:
    pid, status = os.waitpid(-1, 0)
    if status != 0:
        raise RuntimeError("A script of the baseline failed: its rate means nothing.")
    return running.pop(pid)


def figures(rounds: Sequence[Round], name: str) -> dict[str, float]:
    """What a row shows: medians of its turns."""
    return {
        "samples_per_s": round(1 / statistics.median(costs(rounds, name, lambda one: one.wall_s)), 1),
        "cpu_ms_per_sample": round(1000 * statistics.median(costs(rounds, name, lambda one: one.cpu_s)), 3),
        "server_cpu_ms_per_sample": round(1000 * statistics.median(costs(rounds, name, lambda one: one.server_s)), 4),
    }


def measure(size: Size) -> dict[str, Any]:
    """All rows, in turns."""
    samples, plan = {
        Size.SMALLEST: (80, Rounds(0, 1, 1)),
        Size.QUICK: (480, Rounds(20, 3, 15)),
        Size.FULL: (1600, Rounds(170, 5, 15)),
    }[size]
    left_out = dict.fromkeys(list(MRUN_ROWS)[2:], "Not in this size.") if size is Size.SMALLEST else {}
    if not shutil.which("parallel"):
        left_out["parallel"] = "GNU parallel is not installed."
    with stage() as on, ExitStack() as stack:
        left_out |= {name: why for name in MRUN_ROWS if name not in left_out and (why := refusal(on, name))}
        rows = [name for name in MRUN_ROWS if name not in left_out]
        shown = [name for name in SHOWN if name not in left_out]
        directory_us = [time_directory(on)]
        start_and_end_s = {name: time_start_and_end(on, name) for name in rows}
        timers = stack.enter_context(mrun_timers(on, rows)) | {
            "xargs": partial(_time_xargs, on),
            "spawn_bare": partial(_time_spawn_bare, on),
            "spawn_full": partial(_time_spawn_full, on),
            "parallel": partial(_time_parallel, on),
        }
        # Baselines have two turns around each row: together they run as many samples as it does.
        sizes = {name: samples if name in rows else samples // 2 for name in timers}
        sizes["parallel"] = max(40, samples // 8)
        order = [*turns_of({name: AGAINST[name] for name in rows}), *shown]
        rounds = play(order, timers, sizes, plan)
        directory_us.append(time_directory(on))
    pairs = [(name, baseline) for name in rows for baseline in AGAINST[name]]
    wall, wall_spread = compared(rounds, pairs, lambda one: one.wall_s)
    cpu, cpu_spread = compared(rounds, pairs, lambda one: one.all_cpu_s)
    found = {name: figures(rounds, name) for name in sorted(set(order), key=order.index)}
    for name, seconds in start_and_end_s.items():
        found[name]["start_and_end_s"] = round(seconds, 3)
    return {
        "question": "execute",
        "samples": samples,
        "rounds": len(rounds),
        "slots": CORES,
        "directory_us": directory_us,
        "rows": found,
        "ratios": wall,
        "ratios_spread": wall_spread,
        "cpu_ratios": cpu,
        "cpu_ratios_spread": cpu_spread,
        "left_out": left_out,
    }


if __name__ == "__main__":
    main_of(measure, __doc__)
