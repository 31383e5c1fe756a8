"""The CUDA kernels of nearest_code, compiled by g++ through the host shim, against the definition: to the bit, but
for the rounding of float64."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from torch import Tensor

from dvae_kernels.ops.nearest_code import METRICS, reference
from kit.dtypes import HALVES, STORAGE
from kit.shim import H100_SHARED, assert_unbroken, compile_shim, fenced
from ops.nearest_code.cases import DATA, data

POINTER = ctypes.c_void_p


class Shim:
    """The compiled shim with the signature of the raw op."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.shim_nearest_code.argtypes = (*[POINTER] * 4, ctypes.c_char_p, *[POINTER] * 4, ctypes.c_int64)

    def __call__(
        self, x: Tensor, codebook: Tensor, metric: str = "l2", shared_limit: int = H100_SHARED
    ) -> tuple[Tensor, Tensor, Tensor]:
        compute = torch.float64 if x.dtype == torch.float64 else torch.float32
        sizes = (ctypes.c_int64 * 4)(x.shape[0], x.shape[1], codebook.shape[1], x.shape[2])
        counts = (ctypes.c_int64 * 3)()
        self.library.shim_scratch(sizes, counts)
        scratch = [fenced(n, dtype) for n, dtype in zip(counts, (torch.float64, compute, torch.float32))]
        rows = x.shape[0] * x.shape[1]
        outputs = [fenced(rows, torch.int64), fenced(rows, compute), fenced(3, torch.int64)]
        outputs[2][32:-32] = 0
        pointers = [t[32:].data_ptr() for t in (*scratch, *outputs)]
        self.library.shim_nearest_code(
            (POINTER * 2)(x.data_ptr(), codebook.data_ptr()),
            (ctypes.c_int * 2)(STORAGE[x.dtype], STORAGE[codebook.dtype]),
            (ctypes.c_int64 * 6)(*x.stride(), *codebook.stride()),
            sizes, metric.encode(), (POINTER * 3)(*pointers[:3]), *pointers[3:], shared_limit,
        )  # fmt: skip
        assert_unbroken(*scratch, *outputs)
        indices, scores, rescored = (t[32:-32] for t in outputs)
        return indices.view(x.shape[:2]), scores.view(x.shape[:2]), rescored


@pytest.fixture(scope="module")
def shim() -> Shim:
    return Shim(compile_shim("nearest_code"))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_nearest(shim: Shim, x: Tensor, codebook: Tensor, metric: str = "l2", **options: Any) -> Tensor:
    """What was re-scored."""
    indices, scores, rescored = shim(x, codebook, metric, **options)
    expected, expected_scores, _ = reference.nearest_code(x, codebook, metric, "exact", True)
    assert torch.equal(indices, expected)
    rounding = 1e-13 if x.dtype == torch.float64 else 0
    torch.testing.assert_close(scores, expected_scores, rtol=rounding, atol=rounding, equal_nan=True)
    heads, rows, _ = x.shape
    codes = codebook.shape[1]
    assert rescored[2] == heads * rows * (codes // 128 * 16 + min(-(-(codes % 128) // 4), 16))
    return rescored


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "shape",
    [(1, 131, 300, 1), (2, 5, 33, 3), (1, 130, 257, 8), (2, 129, 140, 64), (1, 3, 130, 37)],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_gaussian(shim: Shim, shape: tuple[int, int, int, int], metric: str) -> None:
    heads, rows, codes, columns = shape
    x, codebook = normal(heads, rows, columns).float(), normal(heads, codes, columns, seed=1).float()
    rescored = assert_nearest(shim, x, codebook, metric)
    if columns > 3:
        assert rescored[0] <= 0.02 * heads * rows and rescored[1] <= 1.1 * heads * rows  # the bound is not idle
    # rows of another layout, and of a shared memory in which not all columns stay
    strided = torch.empty(rows, columns, heads).permute(2, 0, 1).copy_(x)
    assert torch.equal(assert_nearest(shim, strided, codebook, metric, shared_limit=64 << 10), rescored)


@pytest.mark.parametrize("dtype", [torch.float64, *HALVES], ids=str)
def test_types(shim: Shim, dtype: torch.dtype) -> None:
    x, codebook = normal(1, 40, 12).to(dtype), normal(1, 150, 12, seed=1)
    assert_nearest(shim, x, codebook.to(dtype))
    if dtype != torch.float64:
        assert_nearest(shim, x, codebook.float(), "cosine")
        assert_nearest(shim, x.float(), codebook.to(dtype))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", DATA)
def test_data(shim: Shim, kind: str, metric: str) -> None:
    for n, k, d in ((70, 300, 13), (30, 129, 3)):
        x, codebook = data(kind, n, k, d)
        rescored = assert_nearest(shim, x[None], codebook[None], metric)
        if d > 3 and kind in ("gaussian", "clustered", *(["offset"] if METRICS[metric].distance else [])):
            assert rescored[0] <= 2, "the bound is too wide"
        if kind == "duplicated":
            assert rescored[0] > n // 2


@pytest.mark.parametrize("metric", METRICS)
def test_scales(shim: Shim, metric: str) -> None:
    """The bound is as tight for numbers of any size."""
    rows, codes = (x[None] for x in data("gaussian", 70, 300, 13))
    for scale in (1e-30, 1e-18, 1e18, 1e30):
        assert assert_nearest(shim, rows * scale, codes * scale, metric)[0] <= 2, scale
    assert_nearest(shim, rows * 1e25, codes * 1e-25, metric)
    assert_nearest(shim, rows * 1e-25, codes * 1e25, metric)
    # all codes equal, and of zeros
    assert_nearest(shim, rows, codes[:, :1].repeat(1, 300, 1), metric)
    assert_nearest(shim, rows, torch.cat([codes * 0, -codes.abs()], 1), metric)


@pytest.mark.parametrize("metric", METRICS)
def test_special_values(shim: Shim, metric: str) -> None:
    x, codebook = normal(1, 20, 5).float(), normal(1, 140, 5, seed=1).float()
    best = shim(x, codebook, metric)[0][0]
    codebook[0, best[0], 1], codebook[0, best[1], 0], codebook[0, best[2], 4] = torch.nan, torch.inf, -torch.inf
    x[0, 3, 2], x[0, 4, 0], x[0, 5, 4] = torch.nan, torch.inf, -torch.inf
    assert assert_nearest(shim, x, codebook, metric)[0] <= 1
    indices, scores, _ = shim(x, codebook, metric)
    assert not indices[0, 3:6].any() and scores[0, 3:6].isnan().all()
    codebook[:] = torch.nan
    assert_nearest(shim, x, codebook, metric)
    wide = torch.tensor([[[1e200, 0], [-1e200, 1e-200], [1e150, 1e150]]], dtype=torch.float64)
    assert_nearest(shim, wide, wide[:, [2, 1, 0, 2]], metric)
