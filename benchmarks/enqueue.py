"""How long until every sample of a study is claimable, and what does the server pay?

`rows`: two sample steps in a chain and a funnel, over a sparse memory-mapped table of 10² … 10⁸ rows; `mrun queue` from
its start to its end, and the server's part. Sizes take turns, in rounds; a row shows medians.

`eager`: what it costs to lay down one entry for each sample instead, as engines do that hold a message for each. Done
in the server, by tasks that create tasks: a script takes a range off a stream and splits it, or, when it is short,
adds its entries. No client and no network is in the way, so this is the most that one server can do eagerly.

Takes about half a minute. Does not show: converting a CSV or running `generate`, which grow with the number of samples
and happen before.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.figures import Size, main_of, median
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
#: ARGV: how many parts a range is split into; how many entries one script adds. Returns the entries that it added, or
#: -1 when no range is left.
SPLIT = """
local parts, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local got = redis.call('XREADGROUP', 'GROUP', 'g', 'c', 'COUNT', 1, 'STREAMS', KEYS[1], '>')
if not got then return -1 end
local entry = got[1][2][1]
local lo, hi = tonumber(entry[2][2]), tonumber(entry[2][4])
redis.call('XACK', KEYS[1], 'g', entry[1])
redis.call('XDEL', KEYS[1], entry[1])
if hi - lo <= most then
  for i = lo, hi - 1 do redis.call('XADD', KEYS[2], '*', 't', i) end
  return hi - lo
end
local step = math.max(most, math.ceil((hi - lo) / parts))
for from = lo, hi - 1, step do redis.call('XADD', KEYS[1], '*', 'lo', from, 'hi', math.min(hi, from + step)) end
return 0
"""
PARTS, ENTRIES_A_SCRIPT = 16, 1000


def _measure_queue(on: Stage, samples: int) -> dict[str, float]:
    """Queue one study."""
    on.samples(samples)
    bytes_before, seconds_before = on.server_bytes(), on.server_seconds()
    on.client.config_resetstat()
    began = time.perf_counter()
    on.mrun("queue", "spec.yaml")
    command_s = time.perf_counter() - began
    return {
        "command_s": command_s,
        "server_command_ms": on.command_ms(),
        "server_cpu_ms": 1000 * (on.server_seconds() - seconds_before),
        "server_growth_bytes": on.server_bytes() - bytes_before,
    }


def _measure_eager(on: Stage, samples: int) -> dict[str, float]:
    """Add an entry for each sample."""
    ranges, entries = "eager:ranges", "eager:entries"
    on.client.delete(ranges, entries)
    split = on.client.register_script(SPLIT)
    on.client.xgroup_create(ranges, "g", "0", mkstream=True)
    bytes_before, seconds_before, began = on.server_bytes(), on.server_seconds(), time.perf_counter()
    on.client.xadd(ranges, {"lo": 0, "hi": samples})
    while split(keys=[ranges, entries], args=[PARTS, ENTRIES_A_SCRIPT]) != -1:
        pass
    wall_s, server_s = time.perf_counter() - began, on.server_seconds() - seconds_before
    if on.client.xlen(entries) != samples:
        raise RuntimeError("The splitting lost or doubled entries: its rate means nothing.")
    bytes_an_entry = (on.server_bytes() - bytes_before) / samples
    on.client.delete(ranges, entries)
    return {
        "entries_per_s": samples / wall_s,
        "entries_per_server_cpu_s": samples / server_s,
        "bytes_per_entry": bytes_an_entry,
    }


def _medians(rounds: list[dict[str, float]], digits: int) -> dict[str, float]:
    return {name: median([one[name] for one in rounds], digits) for name in rounds[0]}


def measure(size: Size) -> dict[str, Any]:
    """Rows, the comparison, and how the time grows from a thousand samples to the most."""
    powers = {Size.SMALLEST: [2, 8], Size.QUICK: [2, 3, 5, 8], Size.FULL: [2, 3, 4, 5, 6, 7, 8]}[size]
    rounds, eager_samples = {Size.SMALLEST: (1, 10_000), Size.QUICK: (3, 500_000), Size.FULL: (7, 2_000_000)}[size]
    with stage() as on:
        (on.directory / "spec.yaml").write_text(SPEC)
        _measure_queue(on, 10)  # the scripts are sent to the server once
        found: dict[int, list[dict[str, float]]] = {power: [] for power in powers}
        for _ in range(rounds):
            for power in powers:
                found[power].append(_measure_queue(on, 10**power))
    with stage() as on:
        eager = [_measure_eager(on, eager_samples) for _ in range(rounds)]
    rows = [{"samples": 10**power, **_medians(them, 3)} for power, them in found.items()]
    least = rows[1] if len(rows) > 2 else rows[0]
    return {
        "question": "enqueue",
        "rows": rows,
        "most_over_least": {
            "samples": [least["samples"], rows[-1]["samples"]],
            **{name: round(rows[-1][name] / least[name], 2) for name in ("command_s", "server_command_ms")},
        },
        "eager": {"entries": eager_samples, **_medians(eager, 0)},
    }


if __name__ == "__main__":
    main_of(measure, __doc__)
