"""mrun: ensembles of simulations for machine learning on HPC."""

from importlib.metadata import version

__version__ = version("mrun")
