"""Draw the ensemble and its surrogates as one figure, and sum the study up in a few lines.

    python3 draw.py --runs <ws>/collect --surrogates <ws>/train --out epidemic.png

Takes `<runs>/<combination>/runs.npz` and `<surrogates>/<combination>/surrogate.npz`. Gives a PNG, and on stdout the R²
of each scenario's surrogate on runs that it was not trained on (the worse of its two outputs) and the figure's path.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # and no pyplot: a Figure of its own draws without a display
from surrogate import rounded_down

#: Okabe & Ito's colours, which people of any colour vision tell apart; the markers say the same without colour.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")
MARKERS = ("o", "^", "s", "D")
STYLE = {"font.size": 10, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False}
PERCENT = 100
#: On each day, half of the runs lie within the inner band and nine in ten within the outer one.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
#: A band's middle is no run: epidemics that peak on different days have a low and broad median. So some are shown.
SINGLE_RUNS = 8
TITLES = {"peak_fraction": "Peak: infectious at one time", "attack_rate": "Attack rate: infected within the year"}


class Scenario(NamedTuple):
    """One scenario's runs and its surrogate's trial; fractions of the population."""

    name: str
    strength: float
    from_day: float
    infectious_by_day: np.ndarray  # (runs, days)
    outputs: list[str]
    truth: np.ndarray  # (held-out runs, outputs)
    predicted: np.ndarray  # (held-out runs, outputs)
    r_squared: np.ndarray  # (outputs,)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the ensemble of epidemics and its surrogates.")
    parser.add_argument("--runs", type=Path, required=True, help="directory of the collect step")
    parser.add_argument("--surrogates", type=Path, required=True, help="directory of the train step")
    parser.add_argument("--out", type=Path, required=True, help="the .png file to write")
    options = parser.parse_args()

    scenarios = read_scenarios(options.runs, options.surrogates)
    if not scenarios:
        sys.exit(f"no combination has both a runs.npz in {options.runs} and a surrogate.npz in {options.surrogates}")
    with rc_context(STYLE):
        figure(scenarios).savefig(options.out, dpi=150)
    for line in summary(scenarios):
        print(line)
    print(f"figure {options.out.resolve()}")


def read_scenarios(runs_dir: Path, surrogates_dir: Path) -> list[Scenario]:
    """Read every combination that has both files, the weakest measures first."""
    scenarios = []
    for runs_path in sorted(runs_dir.glob("*/runs.npz")):
        trial_path = surrogates_dir / runs_path.parent.name / "surrogate.npz"
        if trial_path.exists():
            scenarios.append(read_scenario(runs_path, trial_path))
    return sorted(scenarios, key=lambda scenario: scenario.strength)


def read_scenario(runs_path: Path, trial_path: Path) -> Scenario:
    with np.load(runs_path) as runs, np.load(trial_path) as trial:
        return Scenario(
            name=str(runs["scenario"]),
            strength=float(runs["strength"][0]),
            from_day=float(runs["from_day"][0]),
            infectious_by_day=runs["infectious_by_day"],
            outputs=trial["outputs"].tolist(),
            truth=trial["truth"],
            predicted=trial["predicted"],
            r_squared=trial["r_squared"],
        )


def summary(scenarios: list[Scenario]) -> list[str]:
    """Give one line a scenario: `R2 <name> <worst R²>` and, in brackets, what lies behind it."""
    lines = []
    for scenario in scenarios:
        each = ", ".join(
            f"{name} {rounded_down(value)}" for name, value in zip(scenario.outputs, scenario.r_squared, strict=True)
        )
        worst = rounded_down(scenario.r_squared.min())
        lines.append(f"R2 {scenario.name} {worst} ({each}; {len(scenario.truth)} held-out runs)")
    return lines


def figure(scenarios: list[Scenario]) -> Figure:
    """Draw the curves on the left, a panel a scenario, and predicted against simulated on the right, one an output."""
    outputs = scenarios[0].outputs
    canvas = Figure(figsize=(12, 7.2), layout="constrained")
    canvas.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    n_runs = sum(len(scenario.infectious_by_day) for scenario in scenarios)
    canvas.suptitle(f"{n_runs:,} simulated epidemics, and the polynomials that predict them", fontsize=15)
    left, right = canvas.subfigures(1, 2, width_ratios=(1.75, 1))
    panels = left.subplots(len(scenarios), 1, sharex=True, sharey=True, squeeze=False).flat
    for axes, scenario, colour in zip(panels, scenarios, COLOURS, strict=False):
        draw_curves(axes, scenario, colour)
    axes.set_xlabel("Time (days)")
    for index, axes in enumerate(right.subplots(len(outputs), 1, squeeze=False).flat):
        draw_trial(axes, scenarios, index)
    return canvas


def draw_curves(axes: Axes, scenario: Scenario, colour: str) -> None:
    """Draw a scenario's epidemics as quantiles day by day, and a few single runs."""
    curves = PERCENT * scenario.infectious_by_day
    low, lower, median, upper, high = np.quantile(curves, QUANTILES, axis=0)
    days = np.arange(len(median))
    axes.fill_between(days, low, high, color=colour, alpha=0.17, linewidth=0, label="nine runs in ten, day by day")
    axes.fill_between(days, lower, upper, color=colour, alpha=0.35, linewidth=0, label="half of the runs")
    axes.plot(days, median, color=colour, linewidth=2.4, label="median")
    singles = curves[:: max(1, len(curves) // SINGLE_RUNS)][:SINGLE_RUNS]
    lines = axes.plot(days, singles.T, color="0.15", linewidth=0.7, alpha=0.75)
    lines[0].set_label(f"{len(singles)} single runs")

    title = f"{scenario.name}: contacts as ever"
    if scenario.strength > 0:
        title = f"{scenario.name}: {PERCENT * scenario.strength:g} % fewer contacts from day {scenario.from_day:g}"
        axes.axvline(scenario.from_day, color="0.35", linewidth=1, linestyle=":")
    axes.set_title(title, loc="left", color=colour, fontweight="bold")
    axes.set(ylabel="Infectious (% of the population)", xlim=(0, days[-1]))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper right")


def draw_trial(axes: Axes, scenarios: list[Scenario], index: int) -> None:
    """Draw predicted against simulated values of one output on held-out runs, with the line of perfect prediction."""
    top = 0.0
    for scenario, colour, marker in zip(scenarios, COLOURS, MARKERS, strict=False):
        truth, predicted = PERCENT * scenario.truth[:, index], PERCENT * scenario.predicted[:, index]
        label = f"{scenario.name}: R² {rounded_down(scenario.r_squared[index])}"
        axes.plot(truth, predicted, marker, color=colour, markersize=4.5, alpha=0.5, markeredgewidth=0, label=label)
        top = max(top, truth.max(), predicted.max())
    limits = (0, 1.05 * top)
    axes.plot(limits, limits, color="0.25", linewidth=0.8, zorder=0)
    axes.set(xlim=limits, ylim=limits, xlabel="Simulated (% of the population)", ylabel="Predicted (%)")
    axes.set_title(TITLES[scenarios[0].outputs[index]], loc="left")
    axes.legend(title="held-out runs", alignment="left", frameon=False, loc="upper left", handletextpad=0.2)


if __name__ == "__main__":
    main()
