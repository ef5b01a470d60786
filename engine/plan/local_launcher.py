"""`$(LAUNCHER)` where there is no scheduler: nothing, or `mpiexec` for more than one process."""

from __future__ import annotations

import re
from collections.abc import Mapping

_FIELD = re.compile(r"(\d+)\s*([np]?)")


def local_launch(counts: Mapping[str, int], brackets: str, *, has_mpiexec: bool) -> str:
    """What stands for the token.

    Args:
        counts: the step's resources by their key.
        brackets: `[4p]`, `[2n,4p]`, `[2, 4]` (nodes, procs) or nothing.
    """
    asked = {**counts, **_asked(brackets)}
    procs = asked.get("procs", asked.get("nodes", 1))
    return f"mpiexec -n {procs}" if procs > 1 and has_mpiexec else ""


def has_room(counts: Mapping[str, int], brackets: str) -> bool:
    """Whether the step has as many nodes and procs as one use asks for."""
    room = {"nodes": counts.get("nodes", 1), "procs": counts.get("procs", counts.get("nodes", 1))}
    return all(number <= room[key] for key, number in _asked(brackets).items())


def _asked(brackets: str) -> dict[str, int]:
    fields = _FIELD.findall(brackets)
    asked = {}
    for position, (number, unit) in enumerate(fields):
        # A number without unit counts by its place, and one that is alone is procs.
        is_nodes = unit == "n" or (not unit and position == 0 and len(fields) == 2)
        asked["nodes" if is_nodes else "procs"] = int(number)
    return asked
