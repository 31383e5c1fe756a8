"""Gradients for hard samples; the mathematics is in README.md beside this file."""

from dvae_kernels.ops.hard_estimators.op import ESTIMATORS, Estimator, hard_sample, validate

__all__ = ["ESTIMATORS", "Estimator", "hard_sample", "validate"]
