"""Rows and baselines take turns, and each row is compared with the baselines right before and right after it.

In a round each row stands between two slices of its baseline, and the ratio is the mean of these two over the row's
own: a machine that grows slower, or quicker, during the three of them cancels. What is told is the median of the
rounds' ratios, so that a neighbour who spoils some rounds does not turn it, and beside it the lowest and the highest:
if these are far apart, the machine was noisy, and more rounds are wanted. All ratios say how many times as many samples
a row runs as its baseline, in the same time or with the same CPU time: more is better.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.marks import Slice, Timer

#: What is compared.
Cost = Callable[[Slice], float]


class Turn(NamedTuple):
    """One slice of a round."""

    name: str
    cost: Slice


Round = Sequence[Turn]


class Rounds(NamedTuple):
    """How many rounds: begin none after so many seconds, but have some, and no more than enough."""

    seconds: float
    least: int
    most: int


def turns_of(against: Mapping[str, Sequence[str]]) -> list[str]:
    """Who has a turn in a round, in order: each row among its baselines. Rows that follow each other share them."""
    order: list[str] = []
    shared: Sequence[str] = ()
    for row, baselines in against.items():
        order += [name for name in baselines if name not in shared]
        order.append(row)
        # Mirrored: the last one before is the first one after.
        order += reversed(baselines)
        shared = baselines
    return order


def play(order: Sequence[str], timers: Mapping[str, Timer], samples: Mapping[str, int], plan: Rounds) -> list[Round]:
    """Rounds, one after the other: as many as are wanted, or fewer if a busy machine makes them long."""
    began = time.monotonic()
    rounds: list[Round] = []
    while len(rounds) < plan.most:
        if len(rounds) >= plan.least and time.monotonic() - began > plan.seconds:
            break
        rounds.append([Turn(name, timers[name](samples[name])) for name in order])
    return rounds


def ratios(rounds: Sequence[Round], row: str, baseline: str, cost: Cost) -> list[float]:
    """For each of the row's turns: the mean cost of the baseline's nearest turns of that round, over the row's."""
    found = []
    for turns in rounds:
        for at, turn in enumerate(turns):
            if turn.name == row:
                before = [cost(one.cost) for one in reversed(turns[:at]) if one.name == baseline][:1]
                after = [cost(one.cost) for one in turns[at + 1 :] if one.name == baseline][:1]
                found.append(statistics.mean(before + after) / cost(turn.cost))
    return found


def told(values: Sequence[float], digits: int = 3) -> dict[str, Any]:
    """How far apart the rounds are."""
    return {"lowest": round(min(values), digits), "highest": round(max(values), digits), "rounds": len(values)}


def compared(rounds: Sequence[Round], pairs: Sequence[tuple[str, str]], cost: Cost) -> tuple[dict[str, float], Any]:
    """For each pair "row/baseline" the median of its ratios; and how far apart they are."""
    found = {f"{row}/{baseline}": ratios(rounds, row, baseline, cost) for row, baseline in pairs}
    medians = {name: round(statistics.median(values), 3) for name, values in found.items()}
    return medians, {name: told(values) for name, values in found.items()}


def costs(rounds: Sequence[Round], name: str, cost: Cost) -> list[float]:
    """What all turns of that name cost."""
    return [cost(turn.cost) for turns in rounds for turn in turns if turn.name == name]
