"""How long until every sample of a study is claimable, and what does the server pay?

Two sample steps in a chain and a funnel, over a sparse memory-mapped table of 10³ … 10⁸ rows. Takes about ten
seconds. Does not show: converting a CSV or running `generate`, which grow with the number of samples and happen
before.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from benchmarks.stage import Stage, stage

SPEC = """
description: {name: enqueue, description: two steps and a funnel}
study:
  - name: a
    description: a step
    run: {cmd: "true $(X)"}
  - name: b
    description: goes sample by sample
    run: {cmd: "true $(X)", depends: [a]}
  - name: f
    description: a funnel
    run: {cmd: "true", depends: [b_*]}
merlin:
  samples: {file: samples.npy, column_labels: [X]}
"""


def measure(one: Stage, samples: int) -> dict[str, float]:
    """Queue one study."""
    table = Path(one.directory, "samples.npy")
    table.unlink(missing_ok=True)
    del_me = np.lib.format.open_memmap(table, mode="w+", dtype="<f8", shape=(samples,))
    del del_me
    Path(one.directory, "spec.yaml").write_text(SPEC)
    bytes_before, seconds_before, began = one.server_bytes(), one.server_seconds(), time.perf_counter()
    one.mrun("queue", "spec.yaml")
    return {
        "samples": samples,
        "command_s": round(time.perf_counter() - began, 3),
        "server_cpu_ms": round(1000 * (one.server_seconds() - seconds_before), 2),
        "server_growth_bytes": one.server_bytes() - bytes_before,
    }


def main() -> None:
    """Print one JSON value."""
    with stage() as one:
        measure(one, 10)  # the scripts are sent to the server once
        rows = [measure(one, 10**power) for power in range(3, 9)]
    print(json.dumps({"question": "enqueue", "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
