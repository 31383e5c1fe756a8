"""What nearest_code's contract cannot reach with small shapes, and the certificate itself."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 before Triton kernels are decorated", allow_module_level=True)
pytest.importorskip("triton")

from dvae_kernels.ops.nearest_code import METRICS, triton_kernels, triton_packing
from ops.nearest_code.cases import data, definition

pytestmark = pytest.mark.interpret


@pytest.mark.parametrize("columns, shared", [(3, 232448), (65, 0)], ids=["whole", "pieces"])
def test_chunks_of_rows_parts_of_the_codes_and_pieces_of_columns(
    columns: int, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches: list[tuple[Any, ...]] = []
    launch = triton_kernels.launch

    def watched(kernel: Any, programs: int, *args: Any, **constants: Any) -> None:
        launches.append((kernel.fn.__name__, programs))
        launch(kernel, programs, *args, **constants)

    monkeypatch.setattr(triton_kernels, "launch", watched)
    monkeypatch.setattr(triton_kernels, "gpu_of", lambda device: triton_packing.Gpu(shared))
    monkeypatch.setattr(triton_kernels, "_SCRATCH", 1)  # chunks of one tile
    monkeypatch.setattr(triton_kernels, "_PROGRAMS", 4)
    x, codes = data("gaussian", 2 * 130, 2 * 300, columns)
    heads = x.reshape(2, 130, columns), codes.reshape(2, 300, columns)
    indices, score, _ = triton_kernels.nearest_code(*heads, "l2", "exact", True)
    for h in range(2):
        index, best = definition(heads[0][h], heads[1][h], "l2")
        assert torch.equal(indices[h], index)
        assert torch.equal(score[h], best.float())
    # two chunks, each for two heads and two parts of three tiles
    products = [programs for name, programs in launches if name == "_block_maxima_kernel"]
    assert products == [4, 4]


@pytest.mark.parametrize("kind", ["gaussian", "lattice", "scaled"])
@pytest.mark.parametrize("metric", METRICS)
def test_float32_decides_no_more_than_it_can(kind: str, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no score is asked for: all rows of ordinary data, some of the others, and none wrongly."""
    dtypes: list[Any] = []
    scan = triton_kernels._scan

    def watched(*args: Any) -> Any:
        dtypes.append(args[-1])
        return scan(*args)

    monkeypatch.setattr(triton_kernels, "_scan", watched)
    x, codes = data(kind, 18, 131, 3)
    indices, _, _ = triton_kernels.nearest_code(x[None], codes[None], metric, "exact", False)
    assert torch.equal(indices[0], definition(x, codes, metric)[0])
    assert dtypes.count(triton_kernels.tl.float32) == 18
    # bare products of scaled data are far apart, and need no float64
    expected = {"gaussian": range(1), "lattice": range(1, 19), "scaled": range(any(METRICS[metric]), 19)}
    assert dtypes.count(triton_kernels.tl.float64) in expected[kind]


@pytest.mark.parametrize("kind", ["gaussian", "offset", "scaled"])
@pytest.mark.parametrize("metric", METRICS)
def test_the_bound_holds_and_is_not_idle(kind: str, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block maxima against float64, whose differences within a row may be off by the slack 2B."""
    seen: dict[str, tuple[Any, ...]] = {}
    launch = triton_kernels.launch

    def watched(kernel: Any, programs: int, *args: Any, **constants: Any) -> None:
        launch(kernel, programs, *args, **constants)
        seen[kernel.fn.__name__] = args

    for module in (triton_kernels, triton_packing):
        monkeypatch.setattr(module, "launch", watched)
    rows, codes = data(kind, 60, 300, 24)
    triton_kernels.nearest_code(rows[None], codes[None], metric, "exact", True)
    _, centre, amax, _, _, factor, slack, *_ = seen["_half_rows_kernel"]
    maxima = seen["_block_maxima_kernel"][4][0, :60].double()
    block = 32
    exact = exact_maxima(rows.double(), codes.double(), metric, block)

    shift = 141 - (amax.view(torch.int32) >> 23 & 255).double()
    own = rows - centre[0] if METRICS[metric].distance else rows
    row_shift = 141 - (own.abs().amax(1).view(torch.int32) >> 23 & 255).double()
    if METRICS[metric].distance:
        row_shift = row_shift.minimum(shift + 8)
        assert torch.equal(factor[0, :60].double(), (row_shift - shift).exp2())
    error = maxima[:, : exact.shape[1]] - exact * (row_shift + shift).exp2()[:, None]
    spread = error.amax(1) - error.amin(1)  # what a row's scores share is lost by the centre
    bound = slack[0, :60].double()
    assert (spread <= bound).all(), (spread / bound).max()
    assert (spread / bound).max() > 0.002


def exact_maxima(x: Tensor, codes: Tensor, metric: str, block: int) -> Tensor:
    if metric == "cosine":
        codes = codes / codes.norm(dim=1, keepdim=True)
    score = x @ codes.T - (codes.square().sum(1) / 2 if metric == "l2" else 0)
    padded = torch.nn.functional.pad(score, (0, -score.shape[1] % block), value=-torch.inf)
    return padded.unflatten(1, (-1, block)).amax(2)
