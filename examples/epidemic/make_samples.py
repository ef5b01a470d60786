"""Write the table of samples: a Latin hypercube over the four uncertain parameters, one row per run.

    python3 make_samples.py --n 1000 --seed 2020 --out samples.npy

Gives a `.npy` of shape (n, 4), columns in the order of `PARAMETERS`; the same seed gives the same table.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

#: Fewer runs cannot both train a surrogate of four inputs and check it.
FEWEST_SAMPLES = 10


class Parameter(NamedTuple):
    """An uncertain parameter. `is_log`: uniform in its logarithm, for what is known to an order of magnitude only."""

    label: str
    low: float
    high: float
    is_log: bool = False


#: SARS-CoV-2 in early 2020, before its variants and the vaccines: ranges of published means, not of single patients.
PARAMETERS = (
    # Basic reproduction number: 3.11, 95 % interval 2.39–4.13. Read et al., Phil. Trans. R. Soc. B 376 (2021) 20200265.
    Parameter("R0", 2.4, 4.1),
    # From infection to infectiousness: 3–5 days, table 1 of Microbes Infect. 22 (2020) 611,
    # doi:10.1016/j.micinf.2020.09.006; 5.5 days, 95 % interval 5.1–5.9, Xin et al., Clin. Infect. Dis. 74 (2022) 1678.
    Parameter("LATENT_DAYS", 3.0, 5.9),
    # 6–8 days, the same table 1; 6.5–9.5 days without symptoms, Byrne et al., BMJ Open 10 (2020) e039856.
    Parameter("INFECTIOUS_DAYS", 6.0, 9.5),
    # Infectious on day 0, from ten to a thousand in a million. Nobody counted: this one is the example's assumption.
    Parameter("INITIAL_FRACTION", 1e-5, 1e-3, is_log=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a Latin hypercube of epidemic parameters.")
    parser.add_argument("--n", type=int, required=True, help="number of samples")
    parser.add_argument("--seed", type=int, default=2020, help="seed of the random numbers (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the .npy file to write")
    options = parser.parse_args()
    if options.n < FEWEST_SAMPLES:
        parser.error(f"--n is {options.n}, but this study needs {FEWEST_SAMPLES} samples or more")
    unit = latin_hypercube(options.n, len(PARAMETERS), np.random.default_rng(options.seed))
    np.save(options.out, in_ranges(unit))
    print(f"{options.n} samples of {', '.join(parameter.label for parameter in PARAMETERS)}")


def latin_hypercube(n_samples: int, n_dimensions: int, rng: np.random.Generator) -> np.ndarray:
    """Give (n_samples, n_dimensions) points of [0, 1): each of the n_samples strata of each dimension holds one.

    McKay, Beckman & Conover, Technometrics 21 (1979) 239.
    """
    strata = np.stack([rng.permutation(n_samples) for _ in range(n_dimensions)], axis=1)
    return (strata + rng.random(strata.shape)) / n_samples


def in_ranges(unit: np.ndarray) -> np.ndarray:
    """Stretch points of the unit cube over the ranges of `PARAMETERS`."""
    columns = []
    for fraction, (_, low, high, is_log) in zip(unit.T, PARAMETERS, strict=True):
        columns.append(low * (high / low) ** fraction if is_log else low + (high - low) * fraction)
    return np.stack(columns, axis=1)


if __name__ == "__main__":
    main()
