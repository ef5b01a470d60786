"""A surrogate: a polynomial that stands in for the simulation, thousands of times cheaper.

Ridge regression on all monomials up to a degree of the logarithms of the inputs, which are scaled to [-1, 1]: what an
epidemic does depends on products and ratios of its parameters, and logarithms turn those into sums. The degree is the
one with the smallest leave-one-out error, which a linear fit gives in closed form (Allen's PRESS, Technometrics 16
(1974) 125), so few runs get a stiff polynomial and many a supple one. Nothing is random.
"""

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

HIGHEST_DEGREE = 4
#: Only keeps the normal equations well conditioned; the runs have no noise that would want smoothing.
RIDGE = 1e-7


@dataclass(frozen=True)
class Surrogate:
    """A fitted polynomial: `log_low` and `log_high` (inputs,), `coefficients` (monomials, outputs)."""

    degree: int
    log_low: np.ndarray
    log_high: np.ndarray
    coefficients: np.ndarray

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Give the outputs (runs, outputs) at positive inputs (runs, inputs)."""
        return monomials(scaled(inputs, self.log_low, self.log_high), self.degree) @ self.coefficients


def fit(inputs: np.ndarray, outputs: np.ndarray) -> Surrogate:
    """Fit outputs (runs, outputs) at positive inputs (runs, inputs), with the degree that leave-one-out prefers.

    Every output counts equally in the choice of the degree, whatever its unit.
    """
    log_low, log_high = np.log(inputs).min(axis=0), np.log(inputs).max(axis=0)
    unit_inputs = scaled(inputs, log_low, log_high)
    variances = outputs.var(axis=0)
    variances[variances == 0] = 1  # a constant output is fitted exactly by every degree
    candidates = []
    for degree in range(HIGHEST_DEGREE + 1):
        design = monomials(unit_inputs, degree)
        n_runs, n_monomials = design.shape
        if n_monomials >= n_runs and candidates:
            break
        coefficients, left_out_residuals = ridge(design, outputs)
        error = float(np.mean(left_out_residuals**2 / variances))
        candidates.append((error, Surrogate(degree, log_low, log_high, coefficients)))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def scaled(inputs: np.ndarray, log_low: np.ndarray, log_high: np.ndarray) -> np.ndarray:
    """Map the logarithms of the inputs from [log_low, log_high] to [-1, 1]; an input that never varied to -1."""
    width = np.where(log_high > log_low, log_high - log_low, 1)
    return 2 * (np.log(inputs) - log_low) / width - 1


def monomials(unit_inputs: np.ndarray, degree: int) -> np.ndarray:
    """Give all products of at most `degree` columns, repetition allowed: (runs, monomials), the constant first."""
    n_runs, n_inputs = unit_inputs.shape
    columns = [np.ones(n_runs)]
    for order in range(1, degree + 1):
        for chosen in combinations_with_replacement(range(n_inputs), order):
            columns.append(unit_inputs[:, chosen].prod(axis=1))
    return np.stack(columns, axis=1)


def ridge(design: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the coefficients, and the residual each run would have in a fit without it.

    That residual is (residual) / (1 - leverage), the leverage being the run's diagonal entry of the hat matrix.
    """
    normal = design.T @ design + RIDGE * np.eye(design.shape[1])
    to_coefficients = np.linalg.solve(normal, design.T)
    coefficients = to_coefficients @ outputs
    leverage = np.einsum("ij,ji->i", design, to_coefficients)
    left_out_residuals = (outputs - design @ coefficients) / (1 - leverage)[:, None]
    return coefficients, left_out_residuals


def r_squared(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Give the coefficient of determination of each output (column); not a number where the truth does not vary."""
    residual = ((truth - predicted) ** 2).sum(axis=0)
    total = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    return 1 - np.divide(residual, total, out=np.full_like(total, np.nan), where=total > 0)


def rounded_down(score: float) -> str:
    """Write R² to four decimals, downwards: no fit that is not perfect shows as 1."""
    return f"{np.floor(score * 1e4) / 1e4:.4f}"
