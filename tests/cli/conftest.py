"""`home` for a test that looks at all its server holds, `shared_home` for those that look at their own study only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.homes import Closing, Home


@pytest.fixture(scope="session")
def closing() -> Iterator[list[Closing]]:
    """Homes whose servers are on their way out: to stop one takes a second, in which the next test can run."""
    homes: list[Closing] = []
    yield homes
    for one in homes:
        one.finish()


@pytest.fixture
def home(closing: list[Closing]) -> Iterator[Home]:
    """A home with a server of its own; at the end nothing of it runs."""
    while closing and closing[0].is_done:
        closing.pop(0).finish()
    one = Home()
    yield one
    closing.append(one.close())


@pytest.fixture(scope="module")
def shared_home(closing: list[Closing]) -> Iterator[Home]:
    """The same for all tests of a module."""
    one = Home()
    one.ok("server", "start")
    yield one
    closing.append(one.close())
