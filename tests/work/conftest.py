"""A lab for each test: a server that may be killed, and directories of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TestServer
from tests.lab import Lab


@pytest.fixture
def lab(tmp_path: Path, own_server: TestServer) -> Iterator[Lab]:
    lab = Lab(tmp_path, own_server)
    yield lab
    lab.close()
