"""Gather the runs of one scenario into one file.

    python3 collect.py --runs <ws>/simulate/<combination> --levels '*/*/*/' --samples samples.npy \\
        --scenario none --out runs.npz

Takes the `run.json` of every sample directory; runs that failed have none, and are counted and named, not mourned.
Gives a `.npz`: `scenario`, and by run, in the order of the samples, `sample` (k,), `inputs` (k, 4), `strength`,
`from_day`, `peak_fraction`, `peak_day`, `attack_rate` (k,) and `infectious_by_day` (k, days). Exits with 1 if there is
not one run.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

RESULT_FILE = "run.json"
INPUTS = ("r0", "latent_days", "infectious_days", "initial_fraction")
OTHERS = ("strength", "from_day", "peak_fraction", "peak_day", "attack_rate", "infectious_by_day")
#: So many samples without a result are named; of more, only the number is said.
NAMED_SAMPLES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description="Gather the runs of one scenario into one file.")
    parser.add_argument("--runs", type=Path, required=True, help="directory of the simulate step's combination")
    parser.add_argument("--levels", required=True, help="pattern of the sample directories in it, such as */*/")
    parser.add_argument("--samples", type=Path, required=True, help="the sample table, to know how many to expect")
    parser.add_argument("--scenario", required=True, help="name of the scenario")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    options = parser.parse_args()

    n_expected = len(np.load(options.samples, mmap_mode="r"))
    runs = read_runs(options.runs.glob(options.levels + RESULT_FILE))
    print(f"{options.scenario}: {tally(n_expected, runs)}")
    if not runs:
        sys.exit(f"no {RESULT_FILE} below {options.runs}")
    np.savez(options.out, scenario=options.scenario, **as_arrays(runs))


def read_runs(paths: Iterable[Path]) -> dict[int, dict]:
    """Give the records of the files that can be read, by sample, ascending; say on stderr which cannot."""
    runs = {}
    for path in paths:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            runs[record["sample"]] = {key: record[key] for key in INPUTS + OTHERS}
        except (OSError, ValueError, KeyError) as error:  # a run that was killed while it wrote
            print(f"{path} cannot be used: {error!r}", file=sys.stderr)
    return dict(sorted(runs.items()))


def tally(n_expected: int, runs: dict[int, dict]) -> str:
    """Say how many runs there are, and which are missing."""
    missing = sorted(set(range(n_expected)) - set(runs))
    text = f"{len(runs)} of {n_expected} runs"
    if missing:
        named = ", ".join(map(str, missing[:NAMED_SAMPLES])) + (", …" if len(missing) > NAMED_SAMPLES else "")
        text += f"; {len(missing)} without a result: samples {named}"
    return text


def as_arrays(runs: dict[int, dict]) -> dict[str, np.ndarray]:
    """Turn records into arrays whose first axis is the run."""
    arrays = {key: np.array([run[key] for run in runs.values()]) for key in OTHERS}
    inputs = np.array([[run[key] for key in INPUTS] for run in runs.values()])
    return {"sample": np.array(list(runs)), "inputs": inputs, **arrays}


if __name__ == "__main__":
    main()
