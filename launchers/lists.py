"""How schedulers write lists of nodes and counts."""

from __future__ import annotations

import re

_COUNT = re.compile(r"(\d+)(?:\(x(\d+)\))?")
#: A part of a host list: up to the next comma that is not in brackets.
_PART = re.compile(r"(?:\[[^\]]*\]|[^,\[\]])+")
#: The environment is not worth more names than any machine has.
_MOST_NODES = 100_000


def expand_counts(text: str) -> tuple[int, ...]:
    """`4(x2),8` → 4, 4, 8. () for what is no such list."""
    counts: list[int] = []
    for part in text.split(","):
        found = _COUNT.fullmatch(part)
        if found is None or int(found[2] or 1) > _MOST_NODES:
            return ()
        counts += [int(found[1])] * int(found[2] or 1)
    return tuple(counts)


def expand_hosts(text: str) -> tuple[str, ...]:
    """`n[1-2,05-07],login` → n1, n2, n05, n06, n07, login. () for what is no such list."""
    hosts: list[str] = []
    for part in _PART.findall(text):
        names = [""]
        for piece in re.split(r"(\[[^\]]*\])", part):
            endings = _numbers(piece[1:-1]) if piece.startswith("[") else (piece,)
            if len(names) * len(endings) > _MOST_NODES:
                return ()
            names = [name + ending for name in names for ending in endings]
        hosts += names
    return tuple(name for name in hosts if name)


def _numbers(text: str) -> tuple[str, ...]:
    """`1-2,05` → 1, 2, 05: a number keeps the zeros at its front."""
    found: list[str] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not last:
            found.append(first)
        elif first.isdigit() and last.isdigit() and int(last) - int(first) < _MOST_NODES:
            found += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        else:
            return ()
    return tuple(found)
