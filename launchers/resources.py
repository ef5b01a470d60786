"""What one use of `$(LAUNCHER)` asks for, in words that every launcher understands, and how its prefix is built."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec


class Resources(msgspec.Struct, frozen=True):
    """Resources of one use. Texts, because a script may keep a number in a variable; an empty one was not given."""

    nodes: str = ""
    procs: str = ""
    cores_per_task: str = ""
    gpus_per_task: str = ""
    gpus: str = ""
    walltime_s: float | None = None
    is_exclusive: bool = False
    #: LSF's: how tasks are bound, how they are spread, how many resource sets, and whether one failure ends all.
    bind: str = ""
    distribution: str = ""
    resource_sets: str = ""
    exit_on_error: str = ""
    #: Whether `mpiexec` is on PATH.
    has_mpiexec: bool = False


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """On whose account, and where, a scheduler is asked for something. Empty texts say nothing."""

    bank: str = ""
    queue: str = ""
    qos: str = ""
    reservation: str = ""


class Needs(msgspec.Struct, frozen=True):
    """What a whole script needs, in numbers: where it is a scheduler that starts it."""

    nodes: int = 1
    procs: int = 1
    cores_per_task: int = 1
    gpus: int = 0
    walltime_s: float | None = None
    is_exclusive: bool = False

    @property
    def cores(self) -> int:
        """All cores of all processes."""
        return self.procs * self.cores_per_task


class Prefix(msgspec.Struct, frozen=True):
    """How a scheduler's words before a command are made.

    Attributes:
        words: the words, in an order that never changes. Pure.
        knows: fields of Resources that it makes flags of.
        text_key: the key of a step's raw extra text for it; empty: none. That text comes last.
    """

    words: Callable[[Resources], tuple[str, ...]]
    knows: frozenset[str]
    text_key: str = ""


def flag(name: str, value: str) -> tuple[str, ...]:
    """`name value`, or nothing for a value that was not given."""
    return (name, value) if value else ()


def clock(seconds: float) -> str:
    """`HH:MM:SS`, hours without a limit; parts of a second count as one."""
    whole = math.ceil(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
