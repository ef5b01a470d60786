"""The log of every room: `log.info("worker_began", worker=…)`. Only cli sets up where it goes."""

from __future__ import annotations

import functools
from typing import Any

from mrun.engine.lazy import structlog


class _Log:
    """structlog's logger, which is loaded with the first event."""

    def __getattr__(self, level: str) -> Any:
        return getattr(_logger(), level)


@functools.cache
def _logger() -> Any:
    return structlog.get_logger()


log = _Log()
