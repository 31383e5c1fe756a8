"""Arguments that are a number or a tensor: temperatures (tau) and sharpnesses (beta).

Raw ops take such an argument as two, `(Tensor? tau, float tau_value)`: the tensor where there is one, else the number.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dvae_kernels._autograd import snapshot, traced_for_training, transformed
from dvae_kernels._bounds import at_most
from dvae_kernels._dtypes import LARGEST, LEAST_NORMAL, compute_dtype


class Scalar(NamedTuple):
    """A number, or the tensor that takes its place; unpacks into the two arguments of a raw op."""

    tensor: Tensor | None
    value: float

    def learns(self) -> bool:
        """Whether it may get a gradient; under a transform of torch.func, requires_grad does not tell."""
        return self.tensor is not None and (self.tensor.requires_grad or transformed())


def split_temperature(tau: float | Tensor, logits: Tensor, *, least: float = 0.0) -> Scalar:
    """A (validated) temperature as ops take it: a scalar tensor of the compute dtype, or a finite number of it that is
    `least` or more."""
    compute = compute_dtype(logits.dtype)
    if isinstance(tau, Tensor):
        return Scalar(_held(tau.to(compute).reshape(())), 0.0)
    return _number(tau, least, LARGEST[compute], logits)


def split_sharpness(beta: float | Tensor, logits: Tensor) -> Scalar:
    """A (validated) beta as ops take it: a tensor of the compute dtype, scalar or of the shape of the logits, or a
    positive finite number of it."""
    compute = compute_dtype(logits.dtype)
    if isinstance(beta, Tensor):
        beta = beta.to(compute)
        return Scalar(_held(beta.reshape(())) if beta.numel() == 1 else beta.expand(logits.shape), 0.0)
    return _number(beta, LEAST_NORMAL[compute], LARGEST[compute], logits)


def _number(value: float, least: float, most: float, like: Tensor) -> Scalar:
    """`value` at its nearest in [least, most], bounds of the compute dtype.

    torch.compile would make a graph for every value of a number that an op takes, and can even take the graph of
    another value for it; a product with a tensor it makes with whatever value there is.
    """
    if traced_for_training():
        product = torch.ones((), dtype=torch.float64, device=like.device) * float(value)
        return Scalar(product.clamp(least, most).to(compute_dtype(like.dtype)), 0.0)
    value = float(value)  # NumPy's half would overflow in comparisons with the bounds
    return Scalar(None, least if value < least else most if value > most else value)


def _held(scalar: Tensor) -> Tensor:
    """The scalar as it is now. In eager mode autograd's version check tells where a saved one is changed in place; a
    compiled graph would take the changed one for it. Below torch.func it stays, since the copy has no tangents."""
    return snapshot(scalar) if traced_for_training() and not transformed() else scalar


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
