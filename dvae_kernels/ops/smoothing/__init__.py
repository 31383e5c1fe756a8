"""Smoothing transformations and their log densities; the mathematics is in README.md beside this file."""

from dvae_kernels.ops.smoothing.op import SMOOTHING_KINDS, smoothing_log_prob, smoothing_transform

__all__ = ["SMOOTHING_KINDS", "smoothing_log_prob", "smoothing_transform"]
