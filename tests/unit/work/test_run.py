"""The life of a sample, with files and processes that only note what is asked of them."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from mrun.engine.errors import HandBackError
from mrun.engine.records import Claim
from mrun.engine.work.files.way import SampleFiles
from mrun.engine.work.outcomes import Exit
from mrun.engine.work.processes.process import Process, Script
from mrun.engine.work.run import ClaimRun, Ending, RunState, SampleRun

SCRIPT = Script("/bin/sh", "/d/a.sh", "/d", {}, "/d/a.out", "/d/a.err")


class Files(SampleFiles, kw_only=True):
    """Notes the calls; one of them may fail."""

    calls: list[str]
    fails: str = ""

    def _note(self, name: str) -> None:
        self.calls.append(name)
        if self.fails == name:
            raise OSError(28, "No space left on device", "/d")

    def enter(self) -> None:
        self._note("enter")

    def drop(self) -> None:
        self._note("drop")

    async def keep(self, code: int, *, is_finished: bool, is_lost: bool, is_shared: bool) -> None:
        self._note("keep")

    def release(self) -> None:
        self._note("release")

    def never_ran(self) -> None:
        self._note("never_ran")


class Faked(Process):
    """A process that notes the signals that it gets."""

    def __init__(self, *, has_begun: bool = True, is_taken_back: bool = False) -> None:
        super().__init__()
        self.signals: list[int] = []
        self._has_begun, self._is_taken_back = has_begun, is_taken_back
        self.is_closed = self.was_left = False

    @property
    def has_begun(self) -> bool:
        return self._has_begun

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def take_back(self) -> bool:
        return self._is_taken_back

    def leave(self) -> None:
        self.was_left = True

    def close(self) -> None:
        self.is_closed = True


class Outliving(Faked):
    """As a batch job."""

    outlives_worker = True


def sample_run(**more: Any) -> tuple[SampleRun, list[str]]:
    calls: list[str] = []
    sample: Any = None
    files = Files(sample=sample, directory="/d", script="s", out="o", err="e", is_resumed=False, calls=calls, **more)
    return SampleRun(files, SCRIPT, None), calls


def started(process: Faked) -> SampleRun:
    run, _ = sample_run()
    run.start(lambda: process)
    return run


async def test_a_sample_is_entered_kept_and_released() -> None:
    run, calls = sample_run()
    states = [run.state]
    run.start(Faked)
    states.append(run.state)
    await run.keep(Exit(0, 1.0), is_finished=True, is_lost=False)
    states.append(run.state)
    run.close(RunState.ENDED)
    states.append(run.state)
    assert states == [RunState.WAITING, RunState.RUNNING, RunState.KEEPING, RunState.ENDED]
    assert calls == ["enter", "keep", "release"]


def test_of_a_sample_that_could_not_be_started_nothing_says_that_it_was() -> None:
    run, calls = sample_run(fails="enter")
    with pytest.raises(OSError, match="space"):
        run.start(Faked)
    assert (run.state, calls) == (RunState.LEFT, ["enter", "never_ran", "release"])


async def test_a_full_disk_hands_the_sample_back() -> None:
    run, _ = sample_run(fails="keep")
    run.start(Faked)
    with pytest.raises(HandBackError, match="'/d' can't be written: No space left") as caught:
        await run.keep(Exit(0, 1.0), is_finished=True, is_lost=False)
    assert not caught.value.has_begun


def test_a_sample_that_waits_is_withdrawn_and_one_that_has_begun_is_not() -> None:
    waiting, calls = sample_run()
    assert waiting.withdraw()
    assert (waiting.state, calls) == (RunState.LEFT, ["drop"])
    behind, calls = sample_run()
    behind.start(lambda: Faked(is_taken_back=True))
    assert behind.withdraw()
    assert (behind.state, calls) == (RunState.LEFT, ["enter", "never_ran", "release"])
    running = started(Faked())
    assert not running.withdraw()
    assert running.state is RunState.RUNNING


def claim_run() -> ClaimRun:
    return ClaimRun(Claim(1, "s", 0, 0, 10, 0, 0, 0))


def test_what_can_not_be_withdrawn_counts_as_running() -> None:
    run = claim_run()
    run.current, run.next = started(Faked()), started(Faked())
    run.stop_after_current()
    assert run.limit == 2
    run.next = started(Faked(is_taken_back=True))
    run.stop_after_current()
    assert run.limit == 1
    assert not run.next


def test_what_ends_sooner_beats_what_was_asked_before() -> None:
    run, process = claim_run(), Faked()
    run.current = started(process)
    run.cancel()
    run.end_now(Ending.DRAINED)
    run.cancel()
    run.lose()
    assert (run.ending, run.is_lost) == (Ending.LOST, True)
    assert process.signals == [signal.SIGTERM, signal.SIGTERM, signal.SIGKILL]


def test_a_job_is_left_by_a_worker_that_drains_or_lost_it_and_ended_when_its_study_is() -> None:
    for ask, is_left in (
        (ClaimRun.drain, True),
        (ClaimRun.lose, True),
        (ClaimRun.cancel, False),
        (lambda run: run.lose(is_study_gone=True), False),
    ):
        run, process = claim_run(), Outliving()
        run.current = started(process)
        ask(run)
        assert (process.was_left, bool(process.signals)) == (is_left, not is_left)


def test_a_script_goes_on_when_its_worker_drains() -> None:
    run, process = claim_run(), Faked()
    run.current = started(process)
    run.drain()
    assert (process.signals, run.limit, run.ending) == ([], 1, None)
