"""Exit → outcome: what an execution of a sample means for the study. Pure.

An execution that comes to no end of its own has no outcome: `HandBackError` says why its sample goes back.

The codes are Merlin's contract (SPEC-LANGUAGE §4); users' scripts return them by the tokens `$(MERLIN_SUCCESS)` and
so on.
"""

from __future__ import annotations

import signal

import msgspec

from mrun.engine.plan.model import Terms
from mrun.engine.records import Flags, ReturnCode, SampleState, failure_flags


class Exit(msgspec.Struct, frozen=True):
    """How an execution ended: with a code ≥ 0, or by a signal (`code` is then its negative number)."""

    code: int
    elapsed_ms: float
    is_timeout: bool = False
    #: Who or what ended it, where that was neither the script nor its worker: the end of a sentence about the sample.
    why: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What it means. `reason` is empty unless the sample failed."""

    state: SampleState
    resume: int = 0
    flags: Flags = Flags.NONE
    reason: str = ""


FINISHED = Outcome(SampleState.FINISHED)
CANCELLED = Outcome(SampleState.CANCELLED, flags=Flags.BLOCKING)


def judge(end: Exit, terms: Terms, attempt: int) -> Outcome:
    """The outcome of an execution; `attempt` counts from 0."""
    if end.why:
        return _failed(terms, end.why)
    if end.is_timeout:
        return _failed(terms, f"ran longer than its walltime of {terms.walltime_s:g} s")
    if end.code == ReturnCode.SUCCESS:
        return FINISHED
    if end.code == ReturnCode.STOP_WORKERS:
        return Outcome(SampleState.FINISHED, flags=Flags.STOPS_WORKERS)
    if end.code in (ReturnCode.RESTART, ReturnCode.RETRY):
        if attempt < terms.max_retries:
            return Outcome(SampleState.RETRY, resume=int(end.code == ReturnCode.RESTART))
        return _failed(terms, f"retries exhausted: exit code {end.code} at execution {attempt + 1}")
    if end.code == ReturnCode.HARD_FAIL:
        return _failed(terms, "exit code 102 (HARD_FAIL)", Flags.BLOCKING | Flags.STOPS_STUDY)
    if end.code == ReturnCode.RAISE_ERROR:
        return _failed(terms, "exit code 106 (RAISE_ERROR)", Flags.BLOCKING)
    return _failed(terms, f"exit code {end.code}" if end.code >= 0 else f"killed by {_signal_name(-end.code)}")


def _failed(terms: Terms, reason: str, flags: Flags = Flags.NONE) -> Outcome:
    return Outcome(SampleState.FAILED, flags=flags | failure_flags(terms.on_failure), reason=reason)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
