"""What a sample cost, in wall time and in CPU time, read without the start and the end of whoever runs it.

A *slice* is a few hundred samples of one row. All run the same text; every eighth is given a 1 instead of a 0 and
writes the time, by bash's own clock, into one file: a *mark*. `wall_s` is the time between the mark after a tenth of
the slice and that before the last tenth, over the samples between them. So nothing has to be known of how long a row
takes to start and to end, and nothing is subtracted. Two cores begin samples in an order of their own, so a mark may be
eight samples off: about 1 % of a slice of 600, and the next slice's error is another one. A mark costs 15 µs, which
is 2 µs a sample, in all rows alike.

`cpu_s` is what all processes of a row used in the whole slice, user and system: a worker with its guard, its shells and
its scripts, or xargs with its scripts. It holds what a study, or xargs, costs to start. `server_s` is the server's own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

#: One sample of so many writes the time. Slices are multiples of it, so that the last sample is a mark.
MARK_EVERY = 8
#: Of a slice's marks so many are not looked at, at its beginning and at its end: one of so many.
_LEFT_OUT = 10
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class Slice(NamedTuple):
    """Seconds that one sample cost."""

    wall_s: float
    cpu_s: float
    server_s: float = 0.0

    @property
    def all_cpu_s(self) -> float:
        """With the server's."""
        return self.cpu_s + self.server_s


#: Runs so many samples of a row.
Timer = Callable[[int], Slice]


def value_of(sample: int) -> int:
    """What the sample is given: 1 if it is to write a mark."""
    return int(sample % MARK_EVERY == MARK_EVERY - 1)


class Marks:
    """The file that samples write to, one slice at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def text(self, value: str) -> str:
        """A script of one line; `value` is what stands for the sample's value in it."""
        return f"[ {value} = 0 ] || echo $EPOCHREALTIME >>{self.path}"

    def clear(self) -> None:
        """Before a slice."""
        self.path.unlink(missing_ok=True)

    def is_complete(self, samples: int) -> bool:
        """Whether all marks of the slice are there."""
        return len(self._times()) == samples // MARK_EVERY

    def wall_s(self, samples: int) -> float:
        """Seconds that a sample took, in the middle of a slice.

        Raises:
            RuntimeError: not all samples were run, or some twice.
        """
        times = sorted(self._times())
        if len(times) != samples // MARK_EVERY:
            raise RuntimeError(f"{len(times)} marks of {samples // MARK_EVERY}: the slice's figures mean nothing.")
        left_out = len(times) // _LEFT_OUT
        first, last = left_out, len(times) - 1 - left_out
        return (times[last] - times[first]) / ((last - first) * MARK_EVERY)

    def _times(self) -> list[float]:
        return [float(line) for line in self.path.read_text().split()] if self.path.exists() else []


def tree_cpu_s(pid: int) -> float:
    """CPU time of a process, of all below it, and of those that these have waited for.

    The kernel tells it in ticks of 10 ms for each process, so a slice may be a few ticks off, either way.
    """
    return sum(map(_cpu_s, _tree(pid)))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in _listed(f"/proc/{pid}/task"):
        for child in _words(f"/proc/{pid}/task/{task}/children"):
            yield from _tree(int(child))


def _cpu_s(pid: int) -> float:
    words = _words(f"/proc/{pid}/stat", after=")")
    # proc(5): utime, stime, cutime, cstime are fields 14 to 17, and the state, after the name, is field 3.
    return sum(map(int, words[11:15])) / _TICKS_A_SECOND


def _listed(directory: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return os.listdir(directory)
    return []


def _words(path: str, after: str = "") -> list[str]:
    """A process that has ended meanwhile has none: its time is its parent's by now."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        text = Path(path).read_text()
        return (text.rpartition(after)[2] if after else text).split()
    return []
