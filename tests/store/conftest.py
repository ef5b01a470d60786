"""A store on a namespace of its own, on each kind of server."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from mrun.engine.store.store import Store
from tests.conftest import TestServer


@pytest.fixture
async def store(shared_server: TestServer) -> AsyncIterator[Store]:
    """At teardown nothing may have been written outside the namespace."""
    namespace = f"t{secrets.token_hex(4)}"
    client = redis.asyncio.Redis(unix_socket_path=str(shared_server.socket))
    await client.flushall()
    yield Store(client, namespace)
    strays = [key async for key in client.scan_iter(count=10_000) if not key.startswith(f"{{{namespace}}}:".encode())]
    await client.aclose()
    assert strays == []
