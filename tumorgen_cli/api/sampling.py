"""How a method samples. In a module of its own, because the methods import torch."""

from tumorgen_cli.methods.base import Sampling

__all__ = ["Sampling"]
