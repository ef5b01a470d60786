"""YAML → Spec. The only room that knows YAML."""

from mrun.engine.spec.dump import dump_spec
from mrun.engine.spec.load import load_spec
from mrun.engine.spec.model import Spec
from mrun.engine.spec.names import RESERVED_NAMES

__all__ = ["RESERVED_NAMES", "Spec", "dump_spec", "load_spec"]
