"""Fit a surrogate to four fifths of a scenario's runs, and try it on the fifth it has not seen.

    python3 train.py --runs runs.npz --out surrogate.npz

Takes what `collect.py` wrote. Gives a `.npz` with the fitted polynomial (`degree`, `log_low`, `log_high`,
`coefficients`: the fields of `surrogate.Surrogate`), and its trial: `outputs` (names), `truth` and `predicted`
(held-out runs, outputs), `r_squared` (outputs,). Prints R², the coefficient of determination, of each output.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from surrogate import fit, r_squared, rounded_down

OUTPUTS = ("peak_fraction", "attack_rate")
#: Every fifth sample is held out. Rows of a Latin hypercube are in random order, so this is a random fifth; and going
#: by the sample's number, not by its place among those that survived, the same ones whatever runs are missing.
HOLD_OUT_EVERY = 5


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit a surrogate to the runs of one scenario and try it.")
    parser.add_argument("--runs", type=Path, required=True, help="the .npz file that collect.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    options = parser.parse_args()

    with np.load(options.runs) as runs:
        scenario, inputs = str(runs["scenario"]), runs["inputs"]
        outputs = np.stack([runs[name] for name in OUTPUTS], axis=1)
        is_held_out = runs["sample"] % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
    if is_held_out.all() or not is_held_out.any():
        sys.exit(f"{len(inputs)} runs of {scenario} are too few to train a surrogate and to try it")

    surrogate = fit(inputs[~is_held_out], outputs[~is_held_out])
    truth, predicted = outputs[is_held_out], surrogate.predict(inputs[is_held_out])
    score = r_squared(truth, predicted)
    np.savez(options.out, **asdict(surrogate), outputs=OUTPUTS, truth=truth, predicted=predicted, r_squared=score)
    print(f"{scenario}: degree {surrogate.degree}, {(~is_held_out).sum()} runs to train, {is_held_out.sum()} held out")
    for name, value in zip(OUTPUTS, score, strict=True):
        print(f"{scenario}: R2 of {name} {rounded_down(value)}")


if __name__ == "__main__":
    main()
