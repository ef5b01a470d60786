"""Where this process is: the allocation that it was started in, completed by what has to be asked."""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from mrun.engine.errors import LauncherError
from mrun.engine.logging import log
from mrun.launchers.base import Allocation, Launcher
from mrun.launchers.calls import call
from mrun.launchers.find import enclosing

#: An allocation's end is nice to know, and not worth waiting for.
_TIMEOUT_S = 10.0


class Surroundings(msgspec.Struct, frozen=True):
    """The allocation and the launcher that knows it, None without one; and the environment that is the scripts'."""

    allocation: Allocation | None = None
    launcher: Launcher | None = None
    script_variables: dict[str, str] = {}


async def look_around(environment: Mapping[str, str]) -> Surroundings:
    """What this environment, and the scheduler that made it, tell. Nothing is asked outside of an allocation.

    Never raises: what can't be asked is logged, and left out.
    """
    found = enclosing(environment)
    if found is None:
        return Surroundings(script_variables=dict(environment))
    launcher, allocation = found
    try:
        launcher = await probed(launcher, environment)
    except LauncherError as error:
        log.warning("launcher_version_unknown", launcher=launcher.name, why=error.message)
    allocation = await with_end(launcher, allocation, environment)
    own = launcher.script_variables(environment) | launcher.step_variables(environment)
    return Surroundings(allocation, launcher, own)


async def probed(launcher: Launcher, environment: Mapping[str, str]) -> Launcher:
    """The launcher for the version that is there.

    Raises:
        LauncherError: its program is missing.
    """
    words = launcher.probe()
    return launcher.probed(await call(words, environment, timeout_s=_TIMEOUT_S)) if words else launcher


async def with_end(launcher: Launcher, allocation: Allocation, environment: Mapping[str, str]) -> Allocation:
    """The allocation with its end, asked for if the environment does not tell. One that can't be asked has none."""
    words = launcher.time_left_command(allocation)
    if allocation.ends_at_s is not None or not words:
        return allocation
    try:
        left_s = launcher.read_time_left_s(await call(words, environment, timeout_s=_TIMEOUT_S))
    except LauncherError as error:
        log.warning("allocation_end_unknown", job=allocation.job, why=error.message)
        return allocation
    return msgspec.structs.replace(allocation, ends_at_s=None if left_s is None else time.time() + left_s)
