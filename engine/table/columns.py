"""How many columns a table of samples has: for who gives a table, and no labels."""

from __future__ import annotations

from pathlib import Path

from mrun.engine.lazy import np
from mrun.engine.table.convert import first_row


def count_columns(path: str) -> int:
    """From the header of a `.npy`, or the first row of a text table.

    Returns:
        0 for what is no table: whoever opens it (`open_samples`) says what is wrong with it.

    Raises:
        SpecError: the first row of a text table can't be read.
    """
    kind = Path(path).suffix.lower()
    try:
        if kind != ".npy":
            return len(first_row(path, "," if kind == ".csv" else "\t"))
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return 0
    if not isinstance(rows, np.ndarray) or rows.ndim not in (1, 2):
        return 0
    return int(rows.shape[1]) if rows.ndim == 2 else 1
