"""The elementary functions of Triton kernels against torch's in float64, under the interpreter."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 before Triton kernels are decorated", allow_module_level=True)
triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from dvae_kernels._triton import numerics  # noqa: E402

pytestmark = [
    pytest.mark.interpret,
    pytest.mark.parametrize("dtype, roundings", [(torch.float32, 3), (torch.float64, 4)]),
]


@triton.jit
def _kernel(out_ptr, x_ptr, rest_ptr, n, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.5)
    rest = tl.load(rest_ptr + i, mask=i < n, other=0.5)
    tl.store(out_ptr + i, FUNCTION(x, rest), mask=i < n)


@triton.jit
def _exp(x, rest):
    return numerics.exp(x)


@triton.jit
def _log1p(x, rest):
    return numerics.log1p(x)


@triton.jit
def _one_minus_exp2(x, rest):
    return numerics.one_minus_exp2(x, tl.exp2(x))


@triton.jit
def _inside_unit(x, rest):
    return numerics.inside_unit(x)


def run(function, x, rest=None):
    out = torch.full_like(x, torch.nan)
    _kernel[(triton.cdiv(len(x), 1024),)](out, x, x if rest is None else rest, len(x), function, 1024)
    return out


def assert_close(actual, exact, roundings):
    near = (actual.double() - exact).abs() <= roundings * torch.finfo(actual.dtype).eps * exact.abs()
    assert (near | (actual.double() == exact)).all()


def unit(dtype):
    """Numbers of (0, 1], both ends and every power of two among them."""
    powers = 2.0 ** -torch.arange(120, dtype=torch.float64)
    uniform = torch.rand(3000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([powers, uniform, 0.5 + (uniform - 0.5) * 1e-3]).to(dtype)


def test_exp(dtype, roundings):
    x = torch.cat([torch.linspace(-87.33, 87.33, 4001), torch.linspace(-1, 1, 999), torch.tensor([0.0])]).to(dtype)
    assert_close(run(_exp, x), torch.exp(x.double()), roundings)


def test_log_share(dtype, roundings):
    rest = unit(dtype)
    assert_close(run(numerics.log_share, 1 - rest, rest), torch.log1p(-rest.double()), roundings)
    s = unit(dtype)
    assert_close(run(numerics.log_share, s, 1 - s), torch.log(s.double()), roundings)


def test_log1p(dtype, roundings):
    x = unit(dtype)
    assert_close(run(_log1p, x), torch.log1p(x.double()), roundings)


def test_one_minus_exp2(dtype, roundings):
    y = torch.cat([-unit(dtype), -60 * unit(dtype), torch.tensor([-0.0, -1.0, -torch.inf], dtype=dtype)])
    exact = -torch.expm1(y.double() * torch.log(torch.tensor(2.0, dtype=torch.float64)))
    assert_close(run(_one_minus_exp2, y), exact, roundings)


def test_inside_unit(dtype, roundings):
    info = torch.finfo(dtype)
    x = torch.tensor([-1, 0, 0.3, 1, 2, torch.inf, torch.nan], dtype=dtype)
    expected = torch.tensor([info.tiny, info.tiny, 0.3, *[1 - info.eps / 2] * 3, torch.nan], dtype=dtype)
    assert torch.equal(run(_inside_unit, x).nan_to_num(7), expected.nan_to_num(7))
