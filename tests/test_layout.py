"""Sizes: more elements than 32 bits count, on tensors without memory; the real ones need a GPU."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode

from conftest import Target
from dvae_kernels import gumbel_softmax

OVERLOADS = ("cpp", "triton", "cuda")
HUGE = [(2**16, 2**16), (2**32 - 1, 2), (3, 2**31 + 7), (2**20, 64, 8, 16)]


@pytest.mark.parametrize("overload", OVERLOADS)
@pytest.mark.parametrize("shape", HUGE)
def test_raw_ops_on_huge_meta_tensors(overload: str, shape: tuple[int, ...]) -> None:
    ops = torch.ops.dvae_kernels
    with FakeTensorMode():
        logits, key = torch.empty(shape, dtype=torch.bfloat16), torch.empty(2, dtype=torch.int64)
        tau = torch.empty(())
        y = getattr(ops.gumbel_softmax_fwd, overload)(logits, key, tau, 0.0, 1, True, 0, torch.float32)
        assert y.shape == shape and y.dtype == torch.float32
        dlogits = getattr(ops.gumbel_softmax_bwd, overload)(y, y, tau, 0.0, 1, torch.bfloat16)
        assert dlogits.shape == shape and dlogits.dtype == torch.bfloat16
        dlogits, dtau_rows = getattr(ops.gumbel_softmax_recompute_bwd, overload)(y, logits, key, tau, 0.0, 1, 0, True)
        assert dlogits.shape == shape and dlogits.dtype == torch.bfloat16
        assert dtau_rows.shape == (logits.numel() // shape[1],) and dtau_rows.dtype == torch.float32


def test_the_public_function_on_huge_fake_tensors(kernel: Target) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = torch.empty(2**16, 2**16, device=kernel.device, requires_grad=True)
        y = gumbel_softmax(logits, hard=True, seed=0, backend=kernel.backend)
        y.sum().backward()
        assert logits.grad is not None and logits.grad.shape == y.shape == (2**16, 2**16)


def test_rows_beyond_the_stream_are_refused() -> None:
    with FakeTensorMode(), pytest.raises(ValueError, match=r"expected rows within \[0, 2\^32\), got 4294967297"):
        gumbel_softmax(torch.empty(2**32 + 1, 1), seed=0)


@pytest.mark.gpu
@pytest.mark.parametrize("overload", ["triton", "cuda"], ids=["triton-cuda", "cuda-cuda"])
@pytest.mark.parametrize("shape, dim", [((2**31 // 4096 + 8, 4096), 1), ((2, 2**30 + 70), 1), ((4096, 2**19 + 3), 0)])
def test_more_than_two_to_the_31_elements(overload: str, shape: tuple[int, int], dim: int) -> None:
    """The last rows, whose offsets need 64 bits, equal the same rows sampled alone."""
    target = Target(overload, "cuda")
    if reason := target.why_not():
        pytest.skip(f"{target}: {reason}")
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB of free GPU memory")
    key = torch.tensor([1, 2], device="cuda")
    logits = torch.zeros(shape, dtype=torch.float16, device="cuda").requires_grad_()
    with torch.no_grad():
        logits[-1] = 3  # the last row, or the last category of dim 0
    y = gumbel_softmax(logits, 0.5, dim=dim, key=key, backend=overload)
    weight = torch.ones((), dtype=y.dtype, device="cuda").expand(shape)
    (dlogits,) = torch.autograd.grad(y, logits, weight)
    assert dlogits.abs().max() <= 2 * torch.finfo(torch.float16).eps
    rows = shape[1 - dim]
    tail = slice(rows - 2, rows)
    alone = (logits[tail] if dim else logits[:, tail]).detach()
    expected = gumbel_softmax(alone, 0.5, dim=dim, key=key, row_offset=rows - 2, backend="reference")
    torch.testing.assert_close(y[tail] if dim else y[:, tail], expected)


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_dim_only_says_which_dimension_is_which(backend: Target, dim: int) -> None:
    """Rows are counted in logical order, so a sample around `dim` is the sample of the matrix of rows."""
    logits = torch.randn(3, 4, 5, 6, device=backend.device)
    matrix = logits.movedim(dim, -1).reshape(-1, logits.shape[dim])
    y, rows = (gumbel_softmax(x, dim=d, seed=4, backend=backend.backend) for x, d in ((logits, dim), (matrix, 1)))
    torch.testing.assert_close(y.movedim(dim, -1).reshape(matrix.shape), rows, rtol=1e-5, atol=1e-6)
