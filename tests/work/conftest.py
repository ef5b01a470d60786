"""A lab for each test: a server that may be killed, and directories of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TestServer
from tests.lab import Lab
from tests.work.warm_bench import SHELLS, Bench


@pytest.fixture
def lab(tmp_path: Path, own_server: TestServer) -> Iterator[Lab]:
    lab = Lab(tmp_path, own_server)
    yield lab
    lab.close()


@pytest.fixture(params=SHELLS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, request.param)
    yield bench
    assert not bench.watched.groups, "shells are left over"
