"""Counts and sums of the rows of each code, and the gradient to a codebook, against a one-hot product and scatters.

Shapes are (rows, codes), of 64 columns; "one" has all rows on one code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import timing
from conftest import REPLAY, backends_with_raw_ops, our_backends
from dvae_kernels import code_statistics

WIDTH = 64
LARGE, REUSED, SMALL, ODD = [(262144, 8192)], [(16384, 8192), (16384, 1024)], [(256, 64)], []


def indices_of(shape: tuple[int, int], kind: str, device: torch.device) -> Tensor:
    rows, codes = shape
    if kind == "one":
        return torch.full((rows,), codes // 2, device=device)
    return torch.randint(codes, (rows,), device=device)


@pytest.mark.benchmark(timer=REPLAY)
@pytest.mark.parametrize("kind", ["random", "one"])
def test_code_statistics(
    kind: str, shape: tuple[int, int], device: torch.device, quick: bool, compare: Callable[..., None]
) -> None:
    torch.manual_seed(0)
    rows, codes = shape
    x, indices = torch.randn(rows, WIDTH, device=device), indices_of(shape, kind, device)

    def one_hot() -> tuple[Tensor, Tensor]:
        onehot = F.one_hot(indices, codes).to(x.dtype)
        return onehot.sum(0), onehot.T @ x

    def index_add() -> tuple[Tensor, Tensor]:
        return torch.bincount(indices, minlength=codes), x.new_zeros(codes, WIDTH).index_add_(0, indices, x)

    def scatter_add() -> tuple[Tensor, Tensor]:
        ones = x.new_ones(rows)
        sums = x.new_zeros(codes, WIDTH).scatter_add_(0, indices[:, None].expand(-1, WIDTH), x)
        return x.new_zeros(codes).scatter_add_(0, indices, ones), sums

    functions: dict[str, timing.Function] = {
        f"ours ({backend})": lambda backend=backend: code_statistics(x, indices, codes, backend=backend)
        for backend in our_backends(device)
    }
    functions |= {"bincount, index_add": index_add, "scatter_add": scatter_add}
    if rows * codes <= 1 << 28:  # 1 GiB of one-hot rows
        functions["one-hot product"] = one_hot
    if not quick:
        functions["scatter_add, compiled"] = torch.compile(scatter_add, dynamic=False)
        if "one-hot product" in functions:
            functions["one-hot product, compiled"] = torch.compile(one_hot, dynamic=False)
    kept = timing.reserve(x) if device.type == "cpu" else None
    compare(f"code_statistics {kind} {rows}x{codes}", "", functions)
    del kept


class LookUp(torch.autograd.Function):
    """The raw ops by which vector_quantize and gumbel_softmax_embed look up codes and sum their gradients."""

    @staticmethod
    def forward(ctx: Any, codebook: Tensor, indices: Tensor, backend: str) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.codes, ctx.backend = codebook.shape[0], backend
        return getattr(torch.ops.dvae_kernels.gather_codes, backend)(codebook, indices)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (indices,) = ctx.saved_tensors
        return getattr(torch.ops.dvae_kernels.code_sums, ctx.backend)(grad, indices, ctx.codes), None, None


@pytest.mark.benchmark(timer=REPLAY)
@pytest.mark.parametrize("kind", ["random", "one"])
def test_codebook_gradient(
    kind: str, shape: tuple[int, int], device: torch.device, quick: bool, compare: Callable[..., None]
) -> None:
    """Looking up codes and back."""
    torch.manual_seed(0)
    rows, codes = shape
    codebook = torch.randn(codes, WIDTH, device=device, requires_grad=True)
    indices, grad = indices_of(shape, kind, device), torch.randn(rows, WIDTH, device=device)

    def one_hot(codebook: Tensor) -> Tensor:
        return F.one_hot(indices, codes).to(codebook.dtype) @ codebook

    def embedding(codebook: Tensor) -> Tensor:
        return F.embedding(indices, codebook)

    def gradient(look_up: Callable[[Tensor], Tensor]) -> timing.Function:
        return lambda: torch.autograd.grad(look_up(codebook), codebook, grad)

    functions = {
        f"ours ({backend})": gradient(lambda codebook, backend=backend: LookUp.apply(codebook, indices, backend))
        for backend in backends_with_raw_ops(device)
    }
    functions["F.embedding"] = gradient(embedding)
    if rows * codes <= 1 << 28:
        functions["one-hot product"] = gradient(one_hot)
    if not quick:
        functions["F.embedding, compiled"] = gradient(torch.compile(embedding, dynamic=False))
    kept = timing.reserve(grad) if device.type == "cpu" else None
    compare(f"codebook gradient {kind} {rows}x{codes}", "", functions)
    del kept
