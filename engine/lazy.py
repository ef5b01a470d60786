"""Modules that cost more to import than most commands take. Each is loaded when something of it is first used."""

from __future__ import annotations

import sys
from importlib.util import LazyLoader, find_spec, module_from_spec
from types import ModuleType
from typing import TYPE_CHECKING

__all__ = ["lazy", "np", "npt", "structlog"]


def lazy(name: str) -> ModuleType:
    """The module, loaded at the first look at one of its names."""
    if name in sys.modules:
        return sys.modules[name]
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)
    spec.loader = LazyLoader(spec.loader)
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import structlog
else:
    np = lazy("numpy")
    # Stands in annotations only, which nothing evaluates.
    npt = np
    structlog = lazy("structlog")
