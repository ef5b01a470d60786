"""Pauses grow, up to the longest one."""

from __future__ import annotations

from itertools import islice

from mrun.engine.backoff import pause_after, pauses


def test_pauses_double_and_stay_at_the_longest() -> None:
    assert list(islice(pauses(0.5, 3.0), 5)) == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert list(islice(pauses(5.0, 3.0), 2)) == [3.0, 3.0]


def test_pause_after_any_number_of_failures_is_known() -> None:
    assert [pause_after(failures, 10, 600) for failures in (1, 2, 3, 7, 10_000)] == [10, 20, 40, 600, 600]
