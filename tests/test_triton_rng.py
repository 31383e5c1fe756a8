"""The Triton noise stream against `dvae_kernels._rng`, under the interpreter."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 before Triton kernels are decorated", allow_module_level=True)
triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from dvae_kernels import _rng  # noqa: E402
from dvae_kernels._triton import philox  # noqa: E402

pytestmark = pytest.mark.interpret

KEYS = [(0, 0), (-5, -7), ((1 << 62) + 12345, (1 << 40) + 99), (-(1 << 63), (1 << 31) + 1)]


@triton.jit
def _row_bits_kernel(out_ptr, key_ptr, row_offset, start, ROWS: tl.constexpr, BLOCK_K: tl.constexpr):
    row = tl.arange(0, ROWS)[:, None]
    bits = philox.row_bits(key_ptr, row.to(tl.uint32) + row_offset.to(tl.uint32), start, 0, ROWS, BLOCK_K)
    tl.store(out_ptr + row * BLOCK_K + tl.arange(0, BLOCK_K)[None, :], bits.to(tl.int64))


@triton.jit
def _noise_kernel(exponential_ptr, gumbel_ptr, bits_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    bits = tl.load(bits_ptr + i, mask=i < n, other=0).to(tl.uint32)
    dtype: tl.constexpr = gumbel_ptr.dtype.element_ty
    tl.store(exponential_ptr + i, philox.bits_to_exponential(bits, dtype), mask=i < n)
    tl.store(gumbel_ptr + i, philox.bits_to_gumbel(bits, dtype), mask=i < n)


@triton.jit
def _uniform_kernel(uniform_ptr, complement_ptr, bits_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    bits = tl.load(bits_ptr + i, mask=i < n, other=0).to(tl.uint32)
    uniform, complement = philox.bits_to_uniform(bits, uniform_ptr.dtype.element_ty)
    tl.store(uniform_ptr + i, uniform, mask=i < n)
    tl.store(complement_ptr + i, complement, mask=i < n)


@triton.jit
def _philox_kernel(out_ptr, key_ptr):
    zero = tl.zeros([1], tl.uint32)
    lane = tl.arange(0, 1)
    a, b, c, d = philox.philox(tl.load(key_ptr), zero, zero, zero, zero)
    tl.store(out_ptr + lane, a.to(tl.int64))
    tl.store(out_ptr + 1 + lane, b.to(tl.int64))
    tl.store(out_ptr + 2 + lane, c.to(tl.int64))
    tl.store(out_ptr + 3 + lane, d.to(tl.int64))


def test_known_answer():
    out = torch.empty(4, dtype=torch.int64)
    _philox_kernel[(1,)](out, torch.zeros(2, dtype=torch.int64))
    assert [f"{word:08x}" for word in out.tolist()] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("row_offset, start", [(0, 0), (7, 64), ((1 << 32) - 9, 4), ((1 << 31) - 3, 1 << 18)])
@pytest.mark.parametrize("rows, block_k", [(1, 4), (8, 16), (2, 64)])
def test_bits_are_the_stream_under_any_tiling(key, row_offset, start, rows, block_k):
    key = torch.tensor(key)
    out = torch.full((rows, block_k), -1)
    _row_bits_kernel[(1,)](out, key, row_offset, start, rows, block_k)
    row = torch.arange(rows)[:, None] + row_offset
    col = torch.arange(start, start + block_k)
    words = torch.stack(
        torch.broadcast_tensors(*_rng.philox(key[0], col >> 2, row, key[1] & 0xFFFFFFFF, torch.tensor(0)))
    )
    assert torch.equal(out, words.gather(0, (col & 3).expand(1, rows, block_k))[0])


def _integers() -> torch.Tensor:
    """Both ends, both sides of every power of two and of the switch at 2^30, and a random middle."""
    powers = 1 << torch.arange(33)
    near = torch.cat([powers + d for d in (-2, -1, 0, 1, 2)] + [(1 << 32) - powers + d for d in (-1, 0, 1)])
    middle = torch.randint(1 << 32, (4000,), generator=torch.Generator().manual_seed(0))
    return torch.cat([near[(near >= 0) & (near < 1 << 32)], middle])


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-6), (torch.float64, 1e-14)])
def test_noise_agrees_with_the_reference(dtype, tolerance):
    bits = _integers()
    exponential, gumbel = torch.empty(2, len(bits), dtype=dtype)
    _noise_kernel[(triton.cdiv(len(bits), 256),)](exponential, gumbel, bits, len(bits), 256)
    expected = _rng.bits_to_exponential(bits, torch.float64)
    assert ((exponential - expected).abs() <= tolerance * expected).all()  # relative: it may be 1e-10
    assert (gumbel - _rng.bits_to_gumbel(bits, torch.float64)).abs().max() <= tolerance
    assert (gumbel - _rng.bits_to_gumbel(bits, dtype)).abs().max() <= tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_noise_is_the_reference_s(dtype):
    bits = _integers()
    uniform, complement = torch.empty(2, len(bits), dtype=dtype)
    _uniform_kernel[(triton.cdiv(len(bits), 256),)](uniform, complement, bits, len(bits), 256)
    for ours, theirs in zip((uniform, complement), _rng.bits_to_uniform(bits, torch.float64)):
        assert ((ours - theirs).abs() <= torch.finfo(dtype).eps * theirs).all()  # relative: it may be 1e-10
