"""Launchers by name, those of third parties too, and the one whose allocation this process is in.

A third party's package names its class in the entry-point group `mrun.launchers`. It is loaded when its name is asked
for, and not before.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata

from mrun.engine.errors import LauncherError
from mrun.engine.logging import log
from mrun.engine.nearest import nearest_hint
from mrun.launchers.base import Allocation, Launcher
from mrun.launchers.flux import FluxLauncher
from mrun.launchers.local import LocalLauncher
from mrun.launchers.lsf import LsfLauncher, LsfSrunLauncher
from mrun.launchers.pbs import PbsLauncher
from mrun.launchers.resources import Prefix
from mrun.launchers.slurm import SlurmLauncher

GROUP = "mrun.launchers"


#: Those that come with mrun; nobody else's may take their names.
BUILT_IN: dict[str, type[Launcher]] = {
    one.name: one for one in (LocalLauncher, SlurmLauncher, FluxLauncher, LsfLauncher, LsfSrunLauncher, PbsLauncher)
}
#: Innermost first: Flux instances run in allocations of the others.
_ALLOCATING: tuple[type[Launcher], ...] = (FluxLauncher, SlurmLauncher, LsfLauncher, PbsLauncher)


def names() -> list[str]:
    """Every name that `launcher_named` knows. Loads nothing."""
    return sorted({*BUILT_IN, *_third_party_names(tuple(sys.path))})


def launcher_named(name: str) -> Launcher:
    """A new launcher of that name.

    Raises:
        LauncherError: there is none, or a third party's can't be used.
    """
    return BUILT_IN[name]() if name in BUILT_IN else _third_party(name, tuple(sys.path))


def prefix_named(name: str) -> Prefix:
    """How the words are made that stand for `$(LAUNCHER)` with that `batch.type`. Raises as `launcher_named`."""
    return BUILT_IN[name].prefix if name in BUILT_IN else launcher_named(name).prefix


def enclosing(environment: Mapping[str, str]) -> tuple[Launcher, Allocation] | None:
    """The launcher and the allocation that this environment was given by; of several, the innermost.

    A third party's comes first: nothing else knows of it. One that can't be used is a warning in the log.
    """
    for launcher in (*_third_parties(), *(kind() for kind in _ALLOCATING)):
        allocation = launcher.detect(environment)
        if allocation is not None:
            return launcher, allocation
    return None


def _third_parties() -> Iterator[Launcher]:
    for name in sorted(_third_party_names(tuple(sys.path)) - BUILT_IN.keys()):
        try:
            yield launcher_named(name)
        except LauncherError as error:
            log.warning("launcher_unusable", launcher=name, why=error.message)


# Looking through all packages takes long, and a spec may ask for each row of its parameters. What is installed is what
# can be found on the path.
@functools.lru_cache(maxsize=64)
def _third_party_names(path: tuple[str, ...]) -> frozenset[str]:
    return frozenset(metadata.entry_points(group=GROUP).names)


@functools.lru_cache(maxsize=64)
def _third_party(name: str, path: tuple[str, ...]) -> Launcher:
    found = next(iter(metadata.entry_points(group=GROUP, name=name)), None)
    if found is None:
        raise LauncherError(f"There is no launcher '{name}'.", hint=nearest_hint(name, names()))
    return _loaded(found)


def _loaded(entry: metadata.EntryPoint) -> Launcher:
    owner = f"Launcher '{entry.name}', which is '{entry.value}'"
    hint = "Update or uninstall the package that it comes from."
    # Code of a third party is run, which may raise anything.
    try:
        kind = entry.load()
        launcher = kind()
    except Exception as error:
        raise LauncherError(f"{owner}, can't be loaded: {type(error).__name__}: {error}", hint=hint) from error
    if not isinstance(launcher, Launcher) or getattr(launcher, "name", "") != entry.name:
        raise LauncherError(f"{owner}, is no launcher of that name.", hint=hint)
    return launcher
