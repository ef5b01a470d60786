"""How many trivial samples a second does one worker run, end to end, against `xargs -P`?

Each sample is a shell script of one line, in a directory of its own, with .out and .err files and a marker. Two
baselines: `xargs_bare` starts one `sh -c true` a sample and writes nothing at all; `xargs_files` makes the same
directories and files by a shell script, which costs it two processes more a sample. All in one run, on as many slots
as cores; the ratios are what counts, the rates depend on the machine. Takes about half a minute. Does not show:
network file systems.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np

from benchmarks.stage import Stage, stage

SPEC = """
description: {name: execute, description: one trivial step}
batch: {shell: /bin/sh}
study:
  - name: a
    description: a step
    run: {cmd: "true $(X)"}
merlin:
  samples: {file: samples.npy, column_labels: [X], level_max_dirs: 100}
"""

BASELINE = """
d=$1/$(($2 / 100))/$2
mkdir -p "$d" && cd "$d" || exit
printf '#!/bin/sh\\n\\ntrue %s\\n' "$2" > a.sh
chmod 755 a.sh
./a.sh > a.out 2> a.err && : > MERLIN_FINISHED
"""


def run_mrun(one: Stage, samples: int) -> float:
    """Samples a second, from `mrun work`'s start to the end of the study, Python's start included."""
    np.save(one.directory / "samples.npy", np.arange(float(samples)))
    Path(one.directory, "spec.yaml").write_text(SPEC)
    one.mrun("queue", "spec.yaml")
    began = time.perf_counter()
    one.mrun("work", "--queues", "merlin", "--exit-when-done")
    return samples / (time.perf_counter() - began)


def run_xargs(one: Stage, samples: int, command: list[str]) -> float:
    """Samples a second of a command to which `xargs -P` gives one number at a time."""
    numbers = "\n".join(map(str, range(samples)))
    cores = str(len(os.sched_getaffinity(0)))
    began = time.perf_counter()
    subprocess.run(["xargs", "-P", cores, "-n", "1", *command], input=numbers, text=True, check=True)
    return samples / (time.perf_counter() - began)


def main() -> None:
    """Print one JSON value."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=3000)
    samples = parser.parse_args().samples
    with stage() as one:
        script = one.directory / "baseline.sh"
        script.write_text(BASELINE)
        rates = {
            "mrun": run_mrun(one, samples),
            "xargs_bare": run_xargs(one, samples, ["sh", "-c", "true"]),
            "xargs_files": run_xargs(one, samples, ["sh", str(script), str(one.directory / "baseline")]),
        }
    rows = {name: {"samples_per_s": round(rate, 1), "mrun_ratio": round(rates["mrun"] / rate, 3)}
            for name, rate in rates.items()}  # fmt: skip
    print(json.dumps({"question": "execute", "samples": samples, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
