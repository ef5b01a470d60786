"""Where samples have their directories, below their node's."""

from __future__ import annotations

import functools

#: `$(MERLIN_PATHS_ALL)` of more samples is refused: no list of arguments holds them.
MAX_LISTED_PATHS = 100_000


def sample_depth(count: int, level_max_dirs: int) -> int:
    """Levels of directories for so many samples: the smallest d with level_max_dirs ** d ≥ count."""
    depth = 0
    room = 1
    while room < count:
        room *= level_max_dirs
        depth += 1
    return depth


def sample_path(index: int, count: int, level_max_dirs: int) -> str:
    """The path of a sample such as `0/1`, "" if there is only one.

    Its levels are the digits of the index in base `level_max_dirs`, each padded to the width of that number. A sample
    that was added later (`index` ≥ `count`) is as deep as the first ones, for their directories stay: so the topmost
    level may come to hold more than `level_max_dirs`.
    """
    depth = sample_depth(count, level_max_dirs)
    if depth == 0:
        return ""
    width = len(str(level_max_dirs))
    digits = []
    for _ in range(depth - 1):
        index, digit = divmod(index, level_max_dirs)
        digits.append(f"{digit:0{width}d}")
    digits.append(f"{index:0{width}d}")
    return "/".join(reversed(digits))


@functools.lru_cache(maxsize=4)
def all_paths(total: int, count: int, level_max_dirs: int) -> str:
    """The paths of `total` samples, of which the study began with `count`, blank-separated."""
    return " ".join(sample_path(index, count, level_max_dirs) for index in range(total))
