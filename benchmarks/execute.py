"""How many trivial samples a second does one worker run, end to end?

One bash script of one line for each sample, on as many slots as cores. All rows take turns in one run, each in a
directory of its own that stays until the end, because deleting files slows a file system for a while. What counts is
ratios.

* `full`, `lean`, `packed`: mrun with the spec's `samples.files` of that name; `warm_full`, `warm_lean`: the same with
  `warm: true`. A row that this mrun refuses is left out, and `left_out` says why.
* `xargs`: `xargs -P` gives one number at a time to `bash script`; no file is made. `parallel`: GNU parallel likewise,
  if it is installed.
* `spawn_full`: a loop in Python around `posix_spawn` that makes the same directories and files as `full`;
  `spawn_bare`: the same loop without any file.

`samples_per_s` is without what a run of two samples takes (Python's start, the connection, the end): the shortest of
all rounds. `whole_samples_per_s` is with it. Takes about two minutes. Does not show: network file systems.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.figures import Size, main_of, median
from benchmarks.stage import MRUN, Stage, stage

#: Row → the spec's `files`, and whether shells are warm.
MRUN_ROWS = {
    "full": ("full", False),
    "lean": ("lean", False),
    "packed": ("packed", False),
    "warm_full": ("full", True),
    "warm_lean": ("lean", True),
}
#: Ratios that are asked for: row, and what it is measured against.
RATIOS = [("full", "spawn_full"), ("full", "xargs"), ("lean", "xargs"), ("packed", "xargs"),
          ("warm_full", "xargs"), ("warm_lean", "xargs")]  # fmt: skip
SPEC = """
description: {{name: {name}, description: one trivial step}}
study:
  - name: a
    description: a step
    run: {{cmd: "true $(X)", task_queue: {name}{warm}}}
merlin:
  samples: {{file: {table}, column_labels: [X], level_max_dirs: {fan_out}{files}}}
"""
FAN_OUT = 100
#: A run of so few samples is all start and end.
FEWEST = 2
CORES = len(os.sched_getaffinity(0))


class Runs(NamedTuple):
    """How long runs of so many samples took, and runs of the fewest; a pair in each round."""

    samples: int
    seconds: list[float]
    fewest_s: list[float]

    @classmethod
    def none(cls, samples: int) -> Runs:
        """Before the first round."""
        return cls(samples, [], [])

    def add(self, timer: Callable[[int], float]) -> None:
        """One round more."""
        self.fewest_s.append(timer(FEWEST))
        self.seconds.append(timer(self.samples))

    @property
    def rate(self) -> float:
        """Samples a second, without start and end, of which the shortest counts: noise only makes them longer."""
        return median([(self.samples - FEWEST) / (one - min(self.fewest_s)) for one in self.seconds], 1)

    @property
    def whole_rate(self) -> float:
        """Samples a second, with start and end."""
        return median([self.samples / one for one in self.seconds], 1)


def _write_spec(on: Stage, name: str, samples: int) -> Path:
    files, is_warm = MRUN_ROWS[name]
    path = on.directory / f"{name}.yaml"
    path.write_text(
        SPEC.format(
            name=name,
            fan_out=FAN_OUT,
            table=on.samples(samples, f"samples-{samples}.npy"),
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


def time_mrun(on: Stage, name: str, samples: int) -> float:
    """Seconds from `mrun work`'s start to its end, when the study has ended."""
    on.mrun("queue", _write_spec(on, name, samples))
    began = time.perf_counter()
    on.mrun("work", "--queues", name, "--slots", CORES, "--exit-when-done")
    return time.perf_counter() - began


def _time_xargs(on: Stage, samples: int) -> float:
    return _time_piped(["xargs", "-P", str(CORES), "-n", "1", "bash", str(_script(on))], samples)


def _time_parallel(on: Stage, samples: int) -> float:
    return _time_piped(["parallel", "--jobs", str(CORES), "bash", str(_script(on))], samples)


def _script(on: Stage) -> Path:
    path = on.directory / "script.sh"
    path.write_text("#!/bin/bash\n\ntrue $1\n")
    return path


def _time_piped(command: list[str], samples: int) -> float:
    """Seconds of a command that is given numbers, a line each."""
    numbers = "".join(f"{number}\n" for number in range(samples))
    began = time.perf_counter()
    subprocess.run(command, input=numbers, text=True, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def _time_spawn_bare(on: Stage, samples: int) -> float:
    script = str(_script(on))

    def start(number: int) -> int:
        return os.posix_spawn("/bin/bash", ["bash", script, str(number)], on.environment, setpgroup=0)

    return _time_loop(start, lambda number: None, samples)


def _time_spawn_full(on: Stage, samples: int) -> float:
    """What mrun leaves behind for each sample, by the fewest steps."""
    top = on.directory / f"spawn-{time.monotonic_ns()}"
    top.mkdir()
    here = os.getcwd()

    def start(number: int) -> int:
        directory = f"{top}/{number // FAN_OUT:02}/{number % FAN_OUT:02}"
        try:
            os.mkdir(directory)
        except FileNotFoundError:
            os.makedirs(directory)
        os.chdir(directory)  # posix_spawn has no directory of its own; nothing else runs in this process
        script = os.open("a.sh", os.O_WRONLY | os.O_CREAT, 0o755)
        os.write(script, b"#!/bin/bash\n\ntrue %d\n" % number)
        os.close(script)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        files = [(os.POSIX_SPAWN_OPEN, fd, name, flags, 0o666) for fd, name in ((1, "a.out"), (2, "a.err"))]
        return os.posix_spawn("a.sh", ["a.sh"], on.environment, file_actions=files, setpgroup=0)

    def end(number: int) -> None:
        marker = f"{top}/{number // FAN_OUT:02}/{number % FAN_OUT:02}/MERLIN_FINISHED"
        os.close(os.open(marker, os.O_WRONLY | os.O_CREAT, 0o666))

    try:
        return _time_loop(start, end, samples)
    finally:
        os.chdir(here)


def _time_loop(start: Callable[[int], int], end: Callable[[int], None], samples: int) -> float:
    """Seconds of a loop that keeps as many processes running as there are cores."""
    running: dict[int, int] = {}
    began = time.perf_counter()
    for number in range(samples):
        if len(running) == CORES:
            end(_reap(running))
        running[start(number)] = number
    while running:
        end(_reap(running))
    return time.perf_counter() - began


def _reap(running: dict[int, int]) -> int:
    pid, status = os.waitpid(-1, 0)
    if status != 0:
        raise RuntimeError("A script of the baseline failed: its rate means nothing.")
    return running.pop(pid)


def _timers(on: Stage, refused: dict[str, str]) -> dict[str, Callable[[int], float]]:
    """Row → seconds for so many samples."""
    timers: dict[str, Callable[[int], float]] = {
        "xargs": lambda samples: _time_xargs(on, samples),
        "spawn_bare": lambda samples: _time_spawn_bare(on, samples),
        "spawn_full": lambda samples: _time_spawn_full(on, samples),
    }
    for name in MRUN_ROWS:
        if name not in refused:
            timers[name] = lambda samples, name=name: time_mrun(on, name, samples)
    if shutil.which("parallel"):
        timers["parallel"] = lambda samples: _time_parallel(on, samples)
    return timers


def measure(size: Size) -> dict[str, Any]:
    """All rows, in turns."""
    samples, rounds = {Size.SMALLEST: (20, 1), Size.QUICK: (1000, 2), Size.FULL: (3000, 5)}[size]
    left_out = dict.fromkeys(list(MRUN_ROWS)[2:], "Not in this size.") if size is Size.SMALLEST else {}
    with stage() as on:
        refused = {name: why for name in MRUN_ROWS if (why := left_out.get(name) or refusal(on, name))}
        timers = _timers(on, refused)
        found = {name: Runs.none(samples) for name in timers}
        for _ in range(rounds):
            for name, timer in timers.items():
                found[name].add(timer)
    rates = {name: runs.rate for name, runs in found.items()}
    if "parallel" not in timers:
        refused["parallel"] = "GNU parallel is not installed."
    return {
        "question": "execute",
        "samples": samples,
        "slots": CORES,
        "rows": {
            name: {
                "samples_per_s": rates[name],
                "whole_samples_per_s": runs.whole_rate,
                "start_and_end_s": round(min(runs.fewest_s), 3),
            }
            for name, runs in found.items()
        },
        "ratios": {f"{row}/{to}": round(rates[row] / rates[to], 3) for row, to in RATIOS if row in rates},
        "left_out": refused,
    }


if __name__ == "__main__":
    main_of(measure, __doc__)
