"""Process groups and children, as the kernel knows them."""

from __future__ import annotations

import os


def signal_group(group: int, number: int) -> bool:
    """Signal a process group. False if there is no such group. Number 0 only asks."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def children_of(pid: int) -> list[int]:
    """The children of a process that has one thread.

    Raises:
        OSError: there is no such process.
    """
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]
