"""Where samples have their directories, below their node's."""

from __future__ import annotations


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

    Its levels are the digits of the index in base `level_max_dirs`, each padded to the width of that number.
    """
    width = len(str(level_max_dirs))
    digits = []
    for _ in range(sample_depth(count, level_max_dirs)):
        index, digit = divmod(index, level_max_dirs)
        digits.append(f"{digit:0{width}d}")
    return "/".join(reversed(digits))
