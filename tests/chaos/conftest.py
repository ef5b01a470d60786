"""Labs whose server can be broken in every way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.arena import Arena
from tests.conftest import TestServer

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is marked `chaos`. The marks `slow` and `soak` stand at the tests themselves."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.chaos)


@pytest.fixture
def arena(tmp_path: Path, own_server: TestServer) -> Iterator[Arena]:
    """Everything goes through the proxy; at the end no process is left, and no key outside the namespace."""
    with Arena(tmp_path, own_server) as arena:
        yield arena


@pytest.fixture
def wound_arena(tmp_path: Path) -> Iterator[Arena]:
    """The same, with a server whose clock can be set (libfaketime)."""
    server = TestServer("valkey")
    try:
        clock = Arena.wind(server)
        server.start()
        with Arena(tmp_path, server, clock) as arena:
            yield arena
    finally:
        server.remove()
