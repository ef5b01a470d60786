"""What a worker that is started here would have: what settings and options say, else what is found."""

from __future__ import annotations

import os

from mrun.engine.resources import Inventory, Told, read_resources, take_stock
from mrun.engine.settings import Settings
from mrun.engine.work.affinity import find_inventory
from mrun.launchers.base import Allocation
from mrun.launchers.find import enclosing


def allocation_here() -> Allocation | None:
    """The allocation that this process is in, as its environment tells. Nobody is asked."""
    around = enclosing(os.environ)
    return around[1] if around else None


def inventory_here(settings: Settings, allocation: Allocation | None, slots: int | None) -> Inventory:
    """All that a worker has which starts where this process runs."""
    told = read_resources(settings.resources) if settings.resources else Told()
    return take_stock(told, slots, find_inventory(os.environ, allocation), tuple(os.sched_getaffinity(0)))
