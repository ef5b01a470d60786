"""Repeat the quick set with a new seed each time, until one run fails: `python -m tests.chaos --runs 60`.

A line for each run: its seed, its seconds, its result. The output of the one that fails follows. `--soak` repeats the
soak, of a quarter of an hour, in its place. Words after `--` are pytest's: `-- -n 0`.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time

from tests.conftest import CHAOS_SEED

#: By two processes: half of the time is waiting.
QUICK = ("tests/chaos", "-m", "chaos and not slow", "-n", "2")
SOAK = ("tests/chaos", "-m", "soak")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=60, help="how many [default: 60]")
    parser.add_argument("--seed", type=int, help="of the first run; the others are drawn [default: drawn, too]")
    parser.add_argument("--soak", action="store_true", help="ten thousand samples under kills instead of the quick set")
    parser.add_argument("words", nargs="*", metavar="WORD", help="for pytest, after --")
    asked = parser.parse_args()
    for number in range(1, asked.runs + 1):
        seed = asked.seed if number == 1 and asked.seed is not None else random.SystemRandom().randrange(2**32)
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *(SOAK if asked.soak else QUICK), *asked.words],
            env=os.environ | {CHAOS_SEED: str(seed)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False,
        )  # fmt: skip
        took_s = time.monotonic() - began
        result = "passed" if ended.returncode == 0 else f"FAILED with code {ended.returncode}"
        print(f"{number}/{asked.runs} {CHAOS_SEED}={seed} {took_s:.1f} s {result}", flush=True)
        if ended.returncode != 0:
            print(ended.stdout)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
