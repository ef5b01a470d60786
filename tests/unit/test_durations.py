"""Durations on a command line, in all their forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrun.cli.durations import parse_duration_s
from mrun.engine.workers.request import written_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5400", 5400),
        ("0.5", 0.5),
        ("1:00:00", 3600),
        ("90:00", 5400),
        ("1:02:03:04", 93_784),
        ("1h", 3600),
        ("90m", 5400),
        ("2h30m", 9000),
        ("1d12h", 129_600),
        ("1.5h", 5400),
        ("45s", 45),
    ],
)
def test_a_duration_in_seconds(text, seconds):
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize(
    "text", ["-3", "0", "0:00", "0h", "", "1x", "30m1h", "1h 30m", "1:00:", "1:2:3:4:5", "inf", "٣"]
)
def test_what_is_no_duration(text):
    assert parse_duration_s(text) is None


@given(st.integers(1, 10**9))
def test_a_written_duration_reads_the_same(milliseconds):
    assert parse_duration_s(written_s(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)
