"""The server is away for ten leases, and a worker dies: long samples run once, and lost ones run elsewhere in time.

The lease is the shortest there is; tests/chaos/test_leases.py does the same with the default one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mrun.engine.settings import MIN_LEASE_S
from tests.chaos.arena import Arena
from tests.chaos.outages import assert_nothing_runs_twice, assert_taken_over_in_time, frozen, killed, paused
from tests.conftest import TestServer


@pytest.mark.slow
def test_server_away_for_ten_leases_makes_no_long_sample_run_twice(tmp_path: Path) -> None:
    assert_nothing_runs_twice(tmp_path, MIN_LEASE_S, (frozen, killed, paused))


def test_killed_workers_sample_runs_elsewhere_within_one_and_a_half_leases(
    tmp_path: Path, own_server: TestServer
) -> None:
    with Arena(tmp_path, own_server) as arena:
        assert_taken_over_in_time(arena, lease_s=3)
