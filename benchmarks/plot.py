"""A picture of what enqueue.py found. Needs `pip install 'mrun[examples]'`, for matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def plot_enqueue(found: dict[str, Any], path: Path) -> None:
    """Samples that become claimable in a second, against their number, both logarithmic; as PNG."""
    samples = [row["samples"] for row in found["rows"]]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.loglog(samples, [row["samples"] / row["command_s"] for row in found["rows"]], "o-", label="mrun queue")
    axes.axhline(
        found["eager"]["entries_per_s"], color="gray", linestyle="--",
        label="an entry for each sample, by tasks that create tasks",
    )  # fmt: skip
    axes.set_xlabel("samples of the study")
    axes.set_ylabel("samples that become claimable per second")
    axes.legend()
    axes.grid(visible=True, which="major", alpha=0.3)
    figure.savefig(path, dpi=120)
