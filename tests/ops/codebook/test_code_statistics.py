"""Statistics of codes against plain loops in float64, and their bits against those of code_sums."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from dvae_kernels import code_statistics
from dvae_kernels.ops.codebook import code_sums
from kit.dtypes import UNRELIABLE, each_dtype
from kit.layouts import LAYOUTS, META
from kit.targets import Target
from ops.codebook.cases import rows_and_indices


def by_loops(x: Tensor, indices: Tensor, codes: int, keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Counts, sums and sums of magnitudes in float64."""
    counts, sums = torch.zeros(codes, dtype=torch.float64), torch.zeros(codes, x.shape[1], dtype=torch.float64)
    magnitudes = torch.zeros_like(sums)
    for row, index, kept in zip(x.double(), indices.tolist(), keep.tolist()):
        if kept and 0 <= index < codes and row.isfinite().all():
            counts[index] += 1
            sums[index] += row
            magnitudes[index] += row.abs()
    return counts, sums, magnitudes


# rows, columns, codes, how the rows are spread, layout of x
SHAPES = (
    (300, 20, 9, "random", "contiguous"),
    (2300, 3, 7, "one", "transposed"),
    (700, 33, 5, "outside", "offset"),
    (130, 65, 400, "skewed", "stepped"),
    (65, 1, 1, "random", "guarded"),
)


@each_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_only_finite_rows_with_a_code_take_part(target: Target, shape: tuple[Any, ...], dtype: torch.dtype) -> None:
    rows, columns, codes, kind, layout = shape
    if target.interpreted and dtype != torch.float32 and (dtype in UNRELIABLE or rows != 65):
        pytest.skip("unreliable or slow in the interpreter")
    x, indices = rows_and_indices(rows, columns, codes, kind, dtype)
    keep = torch.rand(rows, generator=torch.Generator().manual_seed(6)) < 0.9
    counts, sums, magnitudes = by_loops(x, indices, codes, keep)
    placed = LAYOUTS[layout](x.to(target.device)).requires_grad_()
    where = indices.to(target.device)
    ours = code_statistics(placed, where, codes, mask=keep.to(target.device), backend=target.backend)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    for result in ours:
        assert result.dtype == compute and not result.requires_grad and result.is_contiguous()
    assert torch.equal(ours.counts.cpu().double(), counts)
    # blocks of 64 rows, and of their sums, added up in order; the reference in torch's order
    roundings = rows if target.backend == "reference" else 192
    assert ((ours.sums.cpu().double() - sums).abs() <= roundings * torch.finfo(compute).eps * magnitudes).all()
    if target.backend != "reference":
        takes_part = keep & x.isfinite().all(1)
        alone = code_sums(x.to(target.device), where.where(takes_part.to(target.device), -1), codes, target.backend)
        assert torch.equal(ours.sums, alone), "the rows that take no part changed a bit"


def test_heads(target: Target) -> None:
    """Each has statistics of its own, and a mask hides a position from all."""
    x, indices = rows_and_indices(3 * 20 * 2, 6, 5, "outside", torch.float32)
    x, indices = x.view(3, 20, 2, 6).to(target.device), indices.view(3, 20, 2).to(target.device)
    mask = torch.arange(20, device=target.device) < 17
    ours = code_statistics(x, indices, 5, mask=mask, heads=2, backend=target.backend)
    assert ours.counts.shape == (2, 5) and ours.sums.shape == (2, 5, 6)
    for head in range(2):
        alone = code_statistics(x[:, :17, head], indices[:, :17, head], 5, backend=target.backend)
        assert torch.equal(ours.counts[head], alone.counts)
        torch.testing.assert_close(ours.sums[head], alone.sums)


def test_one_row(target: Target) -> None:
    """Without other dimensions, as vector_quantize gives its index."""
    x, index = torch.tensor([1.0, 2.0], device=target.device), torch.tensor(2, device=target.device)
    counts, sums = code_statistics(x, index, 3, mask=index > 0, backend=target.backend)
    assert counts.tolist() == [0, 0, 1] and sums.tolist() == [[0, 0], [0, 0], [1, 2]]


def test_nothing_to_count(target: Target) -> None:
    """No rows, no columns, no row that takes part."""
    for x, indices in (
        (torch.empty(0, 4), torch.empty(0)),
        (torch.empty(2, 0, 4), torch.empty(2, 0)),
        (torch.full((70, 4), math.nan), torch.zeros(70)),
        (torch.ones(70, 4), torch.full((70,), -1)),
    ):
        counts, sums = code_statistics(x.to(target.device), indices.long().to(target.device), 3, backend=target.backend)
        assert counts.shape == (3,) and sums.shape == (3, 4) and not counts.any() and not sums.any()
    counts, sums = code_statistics(
        torch.empty(5, 0, device=target.device), torch.tensor([0, 2, 2, -1, 3], device=target.device), 3,
        backend=target.backend,
    )  # fmt: skip
    assert counts.tolist() == [1, 0, 2] and sums.shape == (3, 0)


def test_finite_rows_whose_sum_is_not_stay(target: Target) -> None:
    x = torch.full((3, 2), 3e38, device=target.device)
    x[0, 1] = math.nan
    counts, sums = code_statistics(
        x, torch.zeros(3, dtype=torch.int64, device=target.device), 2, backend=target.backend
    )
    assert counts.tolist() == [2, 0] and sums.tolist() == [[math.inf, math.inf], [0, 0]]


@pytest.mark.parametrize("kind", ["random", "one", "outside"])
def test_no_bit_depends_on_the_number_of_threads(kind: str) -> None:
    target = Target("cpp", "cpu")
    if reason := target.why_not():
        pytest.skip(f"{target}: {reason}")
    x, indices = rows_and_indices(40_000, 33, 50, kind, torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results += [code_statistics(rows, indices, 50) for rows in (x, x.nan_to_num(0, 0, 0))]
    finally:
        torch.set_num_threads(before)
    for i, (counts, sums) in enumerate(results[2:]):
        assert torch.equal(counts, results[i % 2].counts) and torch.equal(sums, results[i % 2].sums)


def test_it_compiles() -> None:
    x, indices = rows_and_indices(30, 4, 6, "outside", torch.float32)
    x.requires_grad_()

    def doubled(x: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        counts, sums = code_statistics(x, indices, 6, mask=indices > 0)
        return 2 * counts, 2 * sums

    compiled = torch.compile(doubled, fullgraph=True, dynamic=True, backend="aot_eager_decomp_partition")
    for rows in (30, 17):
        for ours, theirs in zip(compiled(x[:rows], indices[:rows]), doubled(x[:rows], indices[:rows])):
            assert torch.equal(ours, theirs)


X, INDICES = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "x list": ({"x": [0.0]}, TypeError, "expected x to be a Tensor, got list"),
    "x integer": ({"x": X.long()}, TypeError, "expected floating-point x, got int64"),
    "x scalar": ({"x": X[0, 0]}, ValueError, "expected x of shape [..., D], got ()"),
    "x heads": ({"heads": 3}, ValueError, "expected x of shape [..., 3, D], got (2, 3)"),
    "indices list": ({"indices": [0, 1]}, TypeError, "expected indices to be a Tensor, got list"),
    "indices dtype": ({"indices": INDICES.int()}, TypeError, "expected indices of dtype int64, got int32"),
    "indices device": ({"indices": INDICES.to(META)}, ValueError, "expected indices on cpu, got meta"),
    "indices shape": ({"indices": INDICES[:1]}, ValueError, "expected indices of shape (2,), got (1,)"),
    "num_codes type": ({"num_codes": 2.0}, TypeError, "expected num_codes to be an int, got float"),
    "num_codes bool": ({"num_codes": True}, TypeError, "expected num_codes to be an int, got bool"),
    "num_codes zero": ({"num_codes": 0}, ValueError, "expected num_codes in [1, 2^32), got 0"),
    "heads zero": ({"heads": 0}, ValueError, "expected heads in [1, 2^32), got 0"),
    "too many": (
        {"num_codes": 1 << 30, "heads": 2}, ValueError, "expected less than 2^31 - 1 codes, got 2147483648",
    ),
    "mask list": ({"mask": [True]}, TypeError, "expected mask to be a Tensor, got list"),
    "mask dtype": ({"mask": INDICES}, TypeError, "expected mask of dtype bool, got int64"),
    "mask device": ({"mask": INDICES.bool().to(META)}, ValueError, "expected mask on cpu, got meta"),
    "mask shape": (
        {"mask": torch.ones(3, dtype=torch.bool)}, ValueError, "expected mask that broadcasts to (2,), got shape (3,)",
    ),
    "backend": ({"backend": "nix"}, ValueError, "unknown backend 'nix', expected one of cpp, triton, cuda, reference"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case: str) -> None:
    arguments, error, message = ERRORS[case]
    with pytest.raises(error) as raised:
        code_statistics(**{"x": X, "indices": INDICES, "num_codes": 2, **arguments})
    assert str(raised.value) == f"code_statistics: {message}"


def test_huge_shapes() -> None:
    with FakeTensorMode():
        x, indices = torch.empty(2**20, 64, 64), torch.empty(2**20, 64, dtype=torch.int64)
        counts, sums = code_statistics(x, indices, 2**18, heads=64)
    assert counts.shape == (64, 2**18) and sums.shape == (64, 2**18, 64)
