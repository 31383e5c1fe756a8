"""Modules over the ops, the numbers that they anneal, and the protocol of latents."""

from dvae_kernels.nn import latents
from dvae_kernels.nn.schedule import Schedule

__all__ = ["Schedule", "latents"]
