"""Arguments that are a number or a tensor: temperatures (tau) and sharpnesses (beta).

Raw ops take such an argument as two, `(Tensor? tau, float tau_value)`: the tensor where there is one, else the number.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dvae_kernels._autograd import transformed
from dvae_kernels._bounds import at_most
from dvae_kernels._dtypes import LARGEST, LEAST_NORMAL, compute_dtype


class Scalar(NamedTuple):
    """A number, or the tensor that takes its place; unpacks into the two arguments of a raw op."""

    tensor: Tensor | None
    value: float

    def learns(self) -> bool:
        """Whether it may get a gradient; under a transform of torch.func, requires_grad does not tell."""
        return self.tensor is not None and (self.tensor.requires_grad or transformed())


def split_temperature(tau: float | Tensor, dtype: torch.dtype, *, least: float = 0.0) -> Scalar:
    """A (validated) temperature as ops take it beside logits of `dtype`: a scalar tensor of the compute dtype, or a
    finite number of it that is `least` or more."""
    compute = compute_dtype(dtype)
    if isinstance(tau, Tensor):
        return Scalar(tau.to(compute).reshape(()), 0.0)
    return Scalar(None, _within(float(tau), least, LARGEST[compute]))


def split_sharpness(beta: float | Tensor, logits: Tensor) -> Scalar:
    """A (validated) beta as ops take it: a tensor of the compute dtype, scalar or of the shape of the logits, or a
    positive finite number of it."""
    compute = compute_dtype(logits.dtype)
    if isinstance(beta, Tensor):
        beta = beta.to(compute)
        return Scalar(beta.reshape(()) if beta.numel() == 1 else beta.expand(logits.shape), 0.0)
    return Scalar(None, _within(float(beta), LEAST_NORMAL[compute], LARGEST[compute]))


def _within(value: float, least: float, most: float) -> float:
    return least if value < least else most if value > most else value


def scalar_tensor(tensor: Tensor | None, value: float, like: Tensor) -> Tensor:
    """The two arguments of a raw op as one scalar tensor of the compute dtype."""
    return torch.full((), value, dtype=compute_dtype(like.dtype), device=like.device) if tensor is None else tensor


def inverse_temperature(tau: Tensor) -> Tensor:
    """1 / tau, finite for every tau >= 0 (0 for 0), NaN where tau is not a temperature."""
    inverse = at_most(1 / tau, torch.finfo(tau.dtype).max)
    return torch.where(tau == 0, 0, torch.where((tau > 0) & (tau < torch.inf), inverse, torch.nan))


def positive_temperature(tau: Tensor) -> Tensor:
    """tau, and NaN where it is not a finite number > 0."""
    return torch.where((tau > 0) & (tau < torch.inf), tau, torch.nan)
