"""Modules over the ops, and what anneals their numbers."""

from dvae_kernels.nn.schedule import Schedule

__all__ = ["Schedule"]
