"""What gather_codes and code_sums alone promise: special indices, and the bits of sums."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dvae_kernels.ops.codebook import code_sums, gather_codes
from kit.dtypes import each_dtype, skip_unreliable
from kit.targets import Target
from ops.codebook.cases import spread

KINDS = ("random", "one", "sorted", "skewed", "outside")


def random_rows(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


@each_dtype
@pytest.mark.parametrize("columns", [3, 16])
def test_special_indices(target: Target, dtype: torch.dtype, columns: int) -> None:
    """-1 gives zeros, everything else outside NaN, without a read there; none has a gradient."""
    skip_unreliable(target, dtype)
    codebook = random_rows(4, columns, dtype=dtype).to(target.device).requires_grad_()
    far = 1 << 62
    indices = torch.tensor([[0, -1, 3], [-2, 4, 1], [-far, far, -3]], device=target.device)
    rows = gather_codes(codebook, indices, target.backend)
    assert rows.dtype == dtype and rows.shape == (3, 3, columns)
    assert torch.equal(rows[[0, 0, 1], [0, 2, 2]], codebook[[0, 3, 1]])
    assert not rows[0, 1].any()
    assert rows[[1, 1, 2, 2, 2], [0, 1, 0, 1, 2]].isnan().all()
    (grad,) = torch.autograd.grad(rows, codebook, torch.ones_like(rows))
    assert torch.equal(grad.sum(1).cpu(), columns * torch.tensor([1, 1, 0, 1], dtype=dtype))


def test_a_row_outside_has_no_part_in_sums(target: Target) -> None:
    x = random_rows(5, 3).to(target.device)
    x[1:3] = math.nan
    x.requires_grad_()
    indices = torch.tensor([1, -1, 2, 0, 1], device=target.device)
    sums = code_sums(x, indices, 2, target.backend)
    torch.testing.assert_close(sums, torch.stack([x[3], x[0] + x[4]]))
    (grad,) = torch.autograd.grad(sums, x, torch.ones_like(sums))
    assert torch.equal(grad[:, 0].cpu(), torch.tensor([1.0, 0, 0, 1, 1]))


def test_an_empty_codebook(target: Target) -> None:
    empty = torch.empty(0, 3, device=target.device)
    indices = torch.tensor([-1, 0], device=target.device)
    rows = gather_codes(empty, indices, target.backend)
    assert not rows[0].any() and rows[1].isnan().all()
    assert code_sums(rows, indices, 0, target.backend).shape == (0, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_sums_are_the_same_bits_everywhere(target: Target, kind: str, dtype: torch.dtype) -> None:
    """Sums in the order that the README gives, written here as plain additions."""
    if target.backend == "reference":
        pytest.skip("plain torch has its own order")
    if target.interpreted and dtype != torch.float32 and kind != "outside":
        pytest.skip("slow in the interpreter, whose order is seen in float32")
    rows, columns, codes = 2500, 20, 7
    x, indices = random_rows(rows, columns, dtype=dtype), spread(rows, codes, kind)
    sums = code_sums(x.to(target.device), indices.to(target.device), codes, target.backend).cpu()
    assert torch.equal(sums, sums_by_definition(x, indices, codes))
    if target.interpreted:
        return  # one program after the other
    again = code_sums(x.to(target.device), indices.to(target.device), codes, target.backend).cpu()
    assert torch.equal(sums, again)


def sums_by_definition(x: Tensor, indices: Tensor, codes: int) -> Tensor:
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    result = torch.zeros(codes, x.shape[1], dtype=compute)
    level = [(int(c), row.to(compute)) for c, row in zip(indices.tolist(), x) if 0 <= c < codes]
    level.sort(key=lambda pair: pair[0])
    while level:
        partial = []
        for begin in range(0, len(level), 64):
            end = min(begin + 64, len(level))
            before = level[begin - 1][0] if begin else None
            after = level[end][0] if end < len(level) else None
            parts: list[tuple[int, Tensor] | None] = [None, None]  # of the front and of the back
            i = begin
            while i < end:
                code, total, reaches_back = level[i][0], torch.zeros(x.shape[1], dtype=compute), False
                reaches_back = i == begin and code == before
                while i < end and level[i][0] == code:
                    total = total + level[i][1]
                    i += 1
                continues = i == end and code == after
                if reaches_back:
                    parts[0] = (code, total)
                    if continues:
                        parts[1] = (code, torch.zeros_like(total))
                elif continues:
                    parts[1] = (code, total)
                elif code < codes:
                    result[code] = total
            partial += [part or (codes, torch.zeros(x.shape[1], dtype=compute)) for part in parts]
        level = partial if len(level) > 64 else []
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_sums_do_not_depend_on_the_number_of_threads(kind: str) -> None:
    target = Target("cpp", "cpu")
    if reason := target.why_not():
        pytest.skip(f"{target}: {reason}")
    x, indices = random_rows(40_000, 33), spread(40_000, 50, kind)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results += [code_sums(x, indices, 50, "cpp") for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results)


def test_long_sums_lose_nothing(target: Target) -> None:
    """A running float32 sum of as many terms is off by 1e-3."""
    rows = 1 << 12 if target.interpreted else 1 << 20
    x = torch.full((rows, 2), 0.1, device=target.device)
    if target.backend == "reference":
        pytest.skip("plain torch sums one by one")
    sums = code_sums(x, torch.zeros(rows, dtype=torch.int64, device=target.device), 1, target.backend)
    exact = rows * x[0, 0].double()
    assert ((sums - exact).abs() <= 2e-6 * exact).all()


def test_raw_ops_check_what_they_read() -> None:
    target = Target("cpp", "cpu")
    if reason := target.why_not():
        pytest.skip(f"{target}: {reason}")
    ops, x, indices = torch.ops.dvae_kernels, torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    for call, message in (
        (lambda: ops.gather_codes.cpp(x[0], indices), "a codebook of two dimensions"),
        (lambda: ops.gather_codes.cpp(x, indices.int()), "int64 indices"),
        (lambda: ops.gather_codes.cpp(x.long(), indices), "floating-point"),
        (lambda: ops.code_sums.cpp(x[0], indices, 2), "x of two dimensions"),
        (lambda: ops.code_sums.cpp(x, indices[:3], 2), "one index a row"),
        (lambda: ops.code_sums.cpp(x, indices.float(), 2), "int64 indices"),
        (lambda: ops.code_sums.cpp(x, indices, 1 << 31), "num_codes in"),
        (lambda: ops.code_sums.cpp(x, indices, -1), "num_codes in"),
        (lambda: ops.code_statistics.cpp(x, indices[:3], 2), "code_statistics: expected one index a row"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
