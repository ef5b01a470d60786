"""Labs whose server can be broken in every way, and which of the tests are run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.arena import Arena
from tests.conftest import TestServer


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long ones run when they are asked for only: `-m chaos`, and the longest with `--soak`."""
    is_wanted = "chaos" in config.option.markexpr
    left_out = [
        item
        for item in items
        if (item.get_closest_marker("chaos") and not is_wanted)
        or (item.get_closest_marker("soak") and not config.option.soak)
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


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
