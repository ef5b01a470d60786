"""The variables of what is started here: workers, jobs with workers in them, and the steps that a worker runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from mrun.engine.settings import Settings
from mrun.engine.store.connect import Broker

#: The process that started a worker on this machine. When it dies, the worker ends.
PARENT_VARIABLE = "MRUN_PARENT"
#: Set for a worker that was started on another node: it is told on its stdin when it is to stop.
STDIN_VARIABLE = "MRUN_LISTENS"
#: What is meant for one worker, and not for its scripts.
_OWN_VARIABLES = frozenset({PARENT_VARIABLE, STDIN_VARIABLE})


def worker_environment(environment: Mapping[str, str], settings: Settings, broker: Broker) -> dict[str, str]:
    """What the workers that a command starts get. No password is added."""
    return dict(environment) | {"MRUN_DURABILITY": settings.durability} | broker_variable(settings, broker)


def broker_variable(settings: Settings, broker: Broker) -> dict[str, str]:
    """What tells another process the server; nothing, if it finds the server where this process did.

    The server as the user named it, because the broker's own address does not tell the user. The other process finds a
    variable and a file, too, and the password with them, which this address is without.
    """
    if settings.origins["broker"].startswith("option "):
        return {"MRUN_BROKER": settings.broker} if settings.broker else {}
    return {"MRUN_BROKER": broker.url} if broker.is_own else {}


def step_environment(environment: Mapping[str, str], settings: Settings, broker: Broker) -> dict[str, str]:
    """What steps get: the worker's variables, and what a nested `mrun queue` needs to reach the same server.

    The directory of this Python stands at the end of PATH: `mrun` is found where nothing else of that name is, and no
    program of the user's is hidden. `MRUN_PYTHON` is this Python.
    """
    own = {"MRUN_NAMESPACE": settings.namespace, "MRUN_PYTHON": sys.executable}
    own["MRUN_DURABILITY"] = settings.durability
    if settings.broker is not None or broker.is_own:
        # As it was named: the broker's own address does not tell the user.
        own["MRUN_BROKER"] = settings.broker or broker.url
    path = [*environment.get("PATH", os.defpath).split(os.pathsep), str(Path(sys.executable).parent)]
    inherited = {name: value for name, value in environment.items() if name not in _OWN_VARIABLES}
    return inherited | own | {"PATH": os.pathsep.join(dict.fromkeys(path))}
