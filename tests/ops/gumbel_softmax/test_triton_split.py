"""Few wide rows, each split among several programs: small rows with small tiles, against the reference."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 before Triton kernels are decorated", allow_module_level=True)
pytest.importorskip("triton")

from dvae_kernels._triton import config, rows
from dvae_kernels._triton.rows import view_as_rows
from dvae_kernels.ops.gumbel_softmax import reference, triton_kernels
from kit.opinfo import Case
from kit.oracle import assert_keeps_the_contract, noise_key
from ops.hard_estimators.cases import sample_case

pytestmark = pytest.mark.interpret

_TILE = 32
INF, NAN = float("inf"), float("nan")


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every row wider than a tile of 32 columns has a loop; the parts of a row in each launch that may be split."""
    seen: list[int] = []
    launch = rows.launch

    def watched(kernel: Any, programs: int, *args: Any, **constants: Any) -> None:
        seen.extend([constants["SPLITS"]] if "SPLITS" in constants else [])
        launch(kernel, programs, *args, **constants)

    monkeypatch.setattr(rows, "launch", watched)
    monkeypatch.setattr(config, "_CONTIGUOUS", ())
    monkeypatch.setattr(config, "_CONTIGUOUS_LOOP", config.Config(1, _TILE, 1))
    monkeypatch.setattr(config, "_SPLIT_PROGRAMS", 32)
    config.config.cache_clear()
    yield seen
    config.config.cache_clear()


_CASES = [
    sample_case(shape, hard, dtype, tau, dim=dim, layout=layout)
    for hard, shape, dtype, tau, dim, layout in (
        (False, (3, 150), torch.float32, "tensor", -1, "contiguous"),
        (True, (1, 300), torch.float32, 0.7, -1, "contiguous"),
        (False, (2, 129), torch.bfloat16, "tensor", -1, "offset"),
        (False, (2, 150), torch.float64, "tensor", -1, "contiguous"),
        (True, (2, 70, 2), torch.float32, "tensor", 1, "stepped"),
    )
]


@pytest.mark.parametrize("case", _CASES, ids=str)
def test_split_rows_keep_the_contract(case: Case, parts: list[int]) -> None:
    assert_keeps_the_contract(case, "triton", "cpu")
    assert len(parts) >= 2 and min(parts) > 1


def _special_rows() -> torch.Tensor:
    """Rows of five tiles, in parts of two, two and one: what is special lies in some of the parts."""
    x = torch.randn(8, 5 * _TILE - 3, generator=torch.Generator().manual_seed(1))
    x[0] = -INF
    x[1, :-1] = -INF  # one category, in the last part
    x[2, : 2 * _TILE] = -INF  # a part without any
    x[3, 70] = NAN
    x[4, [3, 80]] = INF
    x[5, 100], x[5, 10:64] = NAN, -INF
    x[6, [70, 71, 140]] = 1e30  # ties, which no noise breaks
    return x


def test_the_index_of_special_rows_and_ties(parts: list[int]) -> None:
    args = (_special_rows(), noise_key(0), 1, 5)
    expected = reference.gumbel_argmax(*args)
    assert expected[[0, 1, 3, 4, 5, 6]].tolist() == [-1, 156, -2, -2, -2, 70]
    assert torch.equal(triton_kernels.gumbel_argmax(*args), expected)
    sample, index = triton_kernels.gumbel_onehot(*args, torch.float32)
    assert torch.equal(index, expected)
    torch.testing.assert_close(sample, reference.gumbel_onehot(*args, torch.float32)[0], rtol=0, atol=0, equal_nan=True)
    assert parts == [3] * 4


@pytest.mark.parametrize("tau, noise", [(0.0, True), (0.3, True), (2.0, False), (-1.0, True)])
def test_special_rows_relaxed_and_their_gradients(tau: float, noise: bool, parts: list[int]) -> None:
    x, key = _special_rows(), noise_key(0) if noise else None
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    temperature = (torch.tensor(tau), 0.0, 1)
    forward = (x, noise_key(0), *temperature, False, 5, torch.float32)
    actual, expected = (module.gumbel_softmax_fwd(*forward) for module in (triton_kernels, reference))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    backward = (grad, x, key, *temperature, 5, True)
    actual, expected = (module.gumbel_softmax_recompute_bwd(*backward) for module in (triton_kernels, reference))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert parts == [3] * 4


@pytest.mark.parametrize(
    "shape, strides, programs, parts, tiles",
    [
        ((1, 131072), (131072, 1), 32, 32, 1),
        ((8, 262144), (262144, 1), 256, 32, 2),
        ((5, 262144), (262144, 1), 160, 32, 2),
        ((64, 262144), (262144, 1), 256, 4, 16),
        ((128, 50257), (50257, 1), 256, 2, 7),
        ((129, 50257), (50257, 1), 129, 1, 13),
        ((1, 16384), (16384, 1), 1, 1, 1),
        ((8, 1 << 30), (1 << 30, 1), 8, 1, 1 << 18),  # the last part's columns would need more than 32 bits
        ((1, 8192, 1024), (1 << 23, 1024, 1), 32, 1, 32),  # rows side by side are not split
    ],
)
def test_the_committed_split(
    shape: tuple[int, ...], strides: tuple[int, ...], programs: int, parts: int, tiles: int
) -> None:
    view = view_as_rows(shape, 1, strides)
    assert view is not None
    count, constants = config.split_tiling(view, torch.empty(0))
    assert (count, constants["SPLITS"], constants["TILES"]) == (programs, parts, tiles)
