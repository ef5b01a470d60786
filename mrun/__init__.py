"""mrun: ensembles of simulations for machine learning on HPC."""

__version__ = "0.1.0"
