"""Throws darts at a square, and counts those in the circle: one of the processes that a launcher has started.

Usage: darts.py SEED THROWS. Each process throws on its own, and prints its throws and its hits.
"""

import os
import random
import sys


def main() -> None:
    seed, throws = int(sys.argv[1]), int(sys.argv[2])
    # Which of the processes this is: as Slurm says, or Flux.
    rank = os.environ.get("SLURM_PROCID") or os.environ.get("FLUX_TASK_RANK", "0")
    thrower = random.Random(f"{seed}/{rank}")
    hits = sum(thrower.random() ** 2 + thrower.random() ** 2 <= 1 for _ in range(throws))
    print(throws, hits)


if __name__ == "__main__":
    main()
