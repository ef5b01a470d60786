"""What a lease promises, with the default one; tests/work/test_outages.py does the same with the shortest."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrun.engine.settings import DEFAULT_LEASE_S
from tests.chaos.arena import Arena
from tests.chaos.outages import (
    assert_nothing_runs_twice,
    assert_taken_over_in_time,
    frozen,
    killed,
    paused,
    set_back,
    set_forward,
    told,
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_server_away_for_ten_default_leases_makes_no_long_sample_run_twice(tmp_path: Path) -> None:
    assert_nothing_runs_twice(tmp_path, DEFAULT_LEASE_S, (frozen, killed, told, paused, set_forward, set_back))


@pytest.mark.slow
def test_killed_workers_sample_runs_elsewhere_within_one_and_a_half_default_leases(arena: Arena) -> None:
    assert_taken_over_in_time(arena, DEFAULT_LEASE_S)
