"""Sizes: more elements than 32 bits count, on tensors without memory; the real ones need a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from dvae_kernels import gumbel_softmax
from kit.discovery import OPINFOS, OPS
from kit.opinfo import Op, OpInfo
from kit.targets import Target

OVERLOADS = ("cpp", "triton", "cuda")
HUGE = [(2**16, 2**16), (2**32 - 1, 2), (3, 2**31 + 7), (2**20, 64, 8, 16)]


@pytest.mark.parametrize("info", OPINFOS, ids=str)
@pytest.mark.parametrize("shape", HUGE)
def test_raw_ops_on_huge_meta_tensors(info: OpInfo, shape: tuple[int, ...]) -> None:
    """Shapes and dtypes are the reference's."""
    with FakeTensorMode():
        logits, key = torch.empty(shape, dtype=torch.bfloat16), torch.empty(2, dtype=torch.int64)
        for name, args in info.raw_calls(logits, key):
            expected = outputs(getattr(info.reference, name)(*args))
            for overload in OVERLOADS:
                actual = outputs(getattr(getattr(torch.ops.dvae_kernels, name), overload)(*args))
                assert [(x.shape, x.dtype) for x in actual] == [(x.shape, x.dtype) for x in expected], name


def outputs(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result


@pytest.mark.parametrize("op", OPS, ids=str)
def test_the_public_functions_on_huge_fake_tensors(kernel: Target, op: Op) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        inputs = {name: torch.empty_like(x, dtype=torch.float32, device=kernel.device).requires_grad_()
                  for name, x in op.inputs((2**16, 2**16)).items()}  # fmt: skip
        op.call(inputs, kernel.backend, **({"seed": 0} if op.draws else {})).sum().backward()
        for x in inputs.values():
            assert x.grad is not None and x.grad.shape == x.shape


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
