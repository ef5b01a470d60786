"""The journals of a workspace → what every sample came to. The second account: it answers when the server can't."""

from __future__ import annotations

import enum
from collections import defaultdict
from pathlib import Path

import msgspec

from mrun.engine.language.places import JOURNAL_DIR
from mrun.engine.lazy import np, npt
from mrun.engine.plan.model import Plan
from mrun.engine.records import Flags, Past, ReturnCode, SampleState, failure_flags
from mrun.engine.workspace.downstream import Choice
from mrun.engine.workspace.journal import Claimed, Settled, Void, read_journal
from mrun.engine.workspace.plan_file import check_steps
from mrun.engine.workspace.run_base import Fates, read_base

_BLOCKING_CODES = (ReturnCode.HARD_FAIL, ReturnCode.RAISE_ERROR)


class Fate(enum.IntEnum):
    """What a sample came to, as far as the journals know."""

    #: Never claimed; or skipped, which no journal records.
    NONE = 0
    #: Claimed by a worker that did not live to say more, cancelled, or to be run again.
    BEGUN = 1
    FINISHED = 2
    FAILED = 3
    FAILED_BLOCKING = 4


#: As in store/prelude/keys.lua: bits of a node are kept in chunks of so many samples.
_CHUNK = 1 << 20
#: What keeps its end in a later run, and what the store calls it.
_KINDS = {"past": (Fate.FINISHED,), "pastf": (Fate.FAILED,), "pastb": (Fate.FAILED_BLOCKING,)}
#: What came to no end, and what the store calls it when it is not to run: it was cancelled with its study.
_LEFT_KIND = {"pastc": (Fate.NONE, Fate.BEGUN)}


class Selection(msgspec.Struct, frozen=True):
    """Samples to run again: of one of these fates, and of one of these steps (none: any), and in one of these half-open
    ranges of sample numbers (None: any)."""

    fates: tuple[Fate, ...]
    steps: tuple[str, ...] = ()
    ranges: tuple[tuple[int, int], ...] | None = None


#: What `restart` runs: everything that did not finish.
UNFINISHED = Selection(tuple(fate for fate in Fate if fate is not Fate.FINISHED))


def select(plan: Plan, fates: Fates, selection: Selection) -> Choice:
    """The samples that a selection means.

    Raises:
        NotFoundError: the study has no step of that name.
    """
    check_steps(plan, selection.steps)
    chosen: Choice = []
    for node, own in zip(plan.nodes, fates, strict=True):
        step = plan.steps[node.step]
        runs = _is_one_of(own, selection.fates)
        if selection.steps and step.name not in selection.steps:
            runs[:] = False
        if selection.ranges is not None:
            within = np.zeros(len(own), np.bool_)
            for low, high in selection.ranges if step.uses_samples else ():
                within[low:high] = True
            runs &= within
        chosen.append(runs)
    return chosen


def _is_one_of(own: npt.NDArray[np.uint8], fates: tuple[Fate, ...]) -> npt.NDArray[np.bool_]:
    """As np.isin, which takes ten times as long for a node of one sample, and as many bytes for one of many."""
    found = np.zeros(len(own), np.bool_)
    for fate in fates:
        found |= own == fate
    return found


def count_again(fates: Fates, again: Choice) -> tuple[int, int]:
    """How many samples run again; and how many do not, and did not finish."""
    count = left = 0
    for own, runs in zip(fates, again, strict=True):
        count += int(np.count_nonzero(runs))
        # Where it did not finish (1) and does not run again (0).
        left += int(np.count_nonzero((own != Fate.FINISHED) > runs))
    return count, left


def without(fates: Fates, again: Choice) -> Fates:
    """Forget in `fates`, in place, what samples that run again came to; returns it.

    In place and by chunks: of a hundred million samples that never ran, the pages of zeros stay untouched.
    """
    for own, runs in zip(fates, again, strict=True):
        for at in range(0, len(own), _CHUNK):
            part = own[at : at + _CHUNK]
            if part.any():
                part[runs[at : at + _CHUNK]] = Fate.NONE
    return fates


def with_added(plan: Plan, fates: Fates) -> tuple[Fates, Choice]:
    """Fates of a plan that has got more samples, and these as a choice."""
    grown, added = [], []
    for node, own in zip(plan.nodes, fates, strict=True):
        more = plan.size(plan.steps[node.step]) - len(own)
        grown.append(np.pad(own, (0, more)))
        added.append(np.pad(np.zeros(len(own), np.bool_), (0, more), constant_values=True))
    return grown, added


def past_of(fates: Fates, again: Choice | None = None) -> Past:
    """Fields of `study:<s>:past` for samples that came to their end. Bit i of a bitmap is sample i, as for SETBIT.

    Args:
        again: what is to run. Whatever else came to no end does not run either; without it all of that runs.
    """
    kinds = _KINDS if again is None else _KINDS | _LEFT_KIND
    fields: list[tuple[str, bytes]] = []
    for node, own in enumerate(fates):
        for chunk, at in enumerate(range(0, len(own), _CHUNK)):
            part = own[at : at + _CHUNK]
            # Of a large study most chunks are alike, and most nodes of a wide one have one sample.
            there = np.flatnonzero(np.bincount(part)).tolist() if part.any() else [Fate.NONE]
            for kind, meant in kinds.items():
                if not any(fate in there for fate in meant):
                    continue
                bits = _is_one_of(part, meant)
                if again is not None:
                    bits &= ~again[node][at : at + _CHUNK]
                if count := np.count_nonzero(bits):
                    bitmap = b"" if count == len(bits) else np.packbits(bits).tobytes()
                    fields.append((f"{node}:{chunk}:{kind}", b"%d %b" % (count, bitmap)))
    return fields


def read_fates(plan: Plan, run: int = 1) -> tuple[Fates, int]:
    """Read all journals of the plan's workspace; returns fates, and the highest claim number that was seen.

    A claim with a higher number wins: numbers grow over runs and servers. What was written of a lost claim does not
    count. A later run begins with its base (see `write_base`). Memory: a byte for each sample of each node.

    Raises:
        WorkspaceError: the base of the run is missing or damaged, or a journal can't be read.
    """
    fates, since = read_base(plan, run)
    claimed: dict[int, Claimed] = {}
    settled: dict[int, list[Settled]] = defaultdict(list)
    void: dict[int, int] = {}
    for path in sorted(Path(plan.workspace, JOURNAL_DIR, "journal").glob("*.journal")):
        for record in read_journal(path):
            if isinstance(record, Claimed):
                claimed[record.claim] = record
            elif isinstance(record, Settled):
                settled[record.claim].append(record)
            elif isinstance(record, Void):
                void[record.claim] = min(record.first, void.get(record.claim, record.first))
    for number in sorted(number for number in claimed if number > since):
        claim = claimed[number]
        if not 0 <= claim.node < len(fates) or not 0 <= claim.lo <= claim.hi <= len(fates[claim.node]):
            continue  # of another plan: the journal was put here by somebody
        own = fates[claim.node]
        on_failure = plan.steps[plan.nodes[claim.node].step].terms(claim.node).on_failure
        ended = claim.lo
        for record in settled[number]:
            # Records that do not fit their claim were put here by somebody, too.
            if claim.lo <= record.first < void.get(number, claim.hi) and _is_within(record, claim):
                _apply(own, record, on_failure)
                ended = max(ended, record.first + len(record.states))
        # Only one sample of the rest may have begun, the first; the others went back as they came.
        if ended < claim.hi and own[ended] == Fate.NONE:
            own[ended] = Fate.BEGUN
    return fates, max(claimed, default=since)


def _is_within(record: Settled, claim: Claimed) -> bool:
    return len(record.states) == len(record.codes) <= claim.hi - record.first


def _apply(own: npt.NDArray[np.uint8], record: Settled, on_failure: str) -> None:
    fates = [_fate(state, code, on_failure) for state, code in zip(record.states, record.codes, strict=True)]
    own[record.first : record.first + len(fates)] = fates


def _fate(state: str, code: int, on_failure: str) -> Fate:
    if state == SampleState.FINISHED:
        return Fate.FINISHED
    if state != SampleState.FAILED:
        return Fate.BEGUN
    is_blocking = code in _BLOCKING_CODES or bool(failure_flags(on_failure) & Flags.BLOCKING)
    return Fate.FAILED_BLOCKING if is_blocking else Fate.FAILED
