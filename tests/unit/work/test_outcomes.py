"""Exit codes to outcomes: one row for each rule of SPEC-LANGUAGE §4."""

from __future__ import annotations

from typing import Any

import pytest

from mrun.engine.plan.model import PlanStep
from mrun.engine.records import Flags
from mrun.engine.work.outcomes import Exit, judge


def step(**options: Any) -> PlanStep:
    return PlanStep(
        index=0, name="a", directory="a", shell="/bin/sh", cmd=(), restart=None, uses_samples=False, first_node=0,
        rows=(), parameters=(), **options,
    )  # fmt: skip


STOPS = Flags.BLOCKING | Flags.STOPS_STUDY


SKIP = {"on_failure": "skip"}
EXHAUSTED = "retries exhausted: exit code"


@pytest.mark.parametrize(
    ("code", "options", "attempt", "state", "resume", "flags", "reason"),
    [
        (0, {}, 0, "finished", 0, Flags.NONE, ""),
        (105, {}, 0, "finished", 0, Flags.STOPS_WORKERS, ""),
        (100, {}, 0, "retry", 1, Flags.NONE, ""),
        (104, {}, 0, "retry", 0, Flags.NONE, ""),
        (104, {"max_retries": 2}, 1, "retry", 0, Flags.NONE, ""),
        (104, {"max_retries": 2}, 2, "failed", 0, Flags.NONE, f"{EXHAUSTED} 104 at execution 3"),
        (100, {"max_retries": 0}, 0, "failed", 0, Flags.NONE, f"{EXHAUSTED} 100 at execution 1"),
        (104, SKIP | {"max_retries": 0}, 0, "failed", 0, Flags.BLOCKING, f"{EXHAUSTED} 104 at execution 1"),
        (101, {}, 0, "failed", 0, Flags.NONE, "exit code 101"),
        (1, {}, 0, "failed", 0, Flags.NONE, "exit code 1"),
        (103, {}, 0, "failed", 0, Flags.NONE, "exit code 103"),
        (1, {"on_failure": "skip"}, 0, "failed", 0, Flags.BLOCKING, "exit code 1"),
        (1, {"on_failure": "abort"}, 0, "failed", 0, STOPS, "exit code 1"),
        (102, {}, 0, "failed", 0, STOPS, "exit code 102 (HARD_FAIL)"),
        (106, {}, 0, "failed", 0, Flags.BLOCKING, "exit code 106 (RAISE_ERROR)"),
        (-9, {}, 0, "failed", 0, Flags.NONE, "killed by SIGKILL"),
        (-9, {"on_failure": "skip"}, 0, "failed", 0, Flags.BLOCKING, "killed by SIGKILL"),
        (-50, {}, 0, "failed", 0, Flags.NONE, "killed by signal 50"),
    ],
)  # fmt: skip
def test_exit_is_judged_by_the_table(
    code: int, options: dict[str, object], attempt: int, state: str, resume: int, flags: Flags, reason: str
) -> None:
    outcome = judge(Exit(code, 1.0), step(**options), attempt)
    assert (outcome.state, outcome.resume, outcome.flags, outcome.reason) == (state, resume, flags, reason)


def test_timeout_fails_whatever_the_code_and_is_never_retried() -> None:
    outcome = judge(Exit(104, 1.0, is_timeout=True), step(walltime_s=5.0), 0)
    assert (outcome.state, outcome.reason) == ("failed", "ran longer than its walltime of 5 s")
