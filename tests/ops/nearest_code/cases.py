"""The data that nearest_code is tried on, and its definition in numpy."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dvae_kernels import nearest_code, nearest_code_scores
from dvae_kernels.ops.nearest_code import METRICS, reference
from kit.opinfo import ErrorInputs, OpInfo, RawCall, RawError

Draw = Callable[..., Tensor]  # of standard normals
Data = Callable[[Draw, int, int, int], tuple[Tensor, Tensor]]  # (draw, N, K, D) -> rows and codes


def _gaussian(draw: Draw, n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    return draw(n, d), draw(k, d)


def _clustered(draw: Draw, n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Rows near codes."""
    codes = draw(k, d)
    return codes[torch.arange(n) * 7 % k] + 0.03 * draw(n, d), codes


def _duplicated(draw: Draw, n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Every code several times."""
    return draw(n, d), draw(k // 3 + 1, d)[torch.arange(k) * 5 % (k // 3 + 1)]


def _lattice(draw: Draw, n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Small integers: different codes with exactly the same score."""
    return draw(n, d).round(), draw(k, d).round()


def _permuted(draw: Draw, n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Equal columns of x and the same numbers in every code: scores that are equal but for the order of additions."""
    code = 3 + draw(d)
    return draw(n, 1).expand(n, d), torch.stack([code.roll(i * 5) for i in range(k)])


def _near_tie(draw: Draw, n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Codes that differ by one ulp in one column, and rows about halfway between them."""
    codes = draw(k // 6 + 1, d)[torch.arange(k) % (k // 6 + 1)]
    place = (torch.arange(k), torch.arange(k) * 3 % d)
    away = torch.where(torch.arange(k) % 2 == 0, torch.inf, -torch.inf)
    codes[place] = torch.nextafter(codes[place], away)
    rows = codes[torch.arange(n) * 11 % k]
    return torch.where(torch.arange(n)[:, None] % 2 == 0, rows, rows + 1e-6 * draw(n, d)), codes


def _offset(draw: Draw, n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    return 50 + 0.01 * draw(n, d), 50 + 0.01 * draw(k, d)


def _scaled(draw: Draw, n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """1e-20 to 1e15 in one call."""
    rows, codes = 10 ** torch.linspace(-20, 15, n)[:, None], 10 ** torch.linspace(15, -20, k)[:, None]
    return draw(n, d) * rows, draw(k, d) * codes


def _scaled_rows(draw: Draw, n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    return draw(n, d) * 10 ** torch.linspace(-20, 15, n)[:, None], draw(k, d)


def _unequal(draw: Draw, n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Tiny rows beside huge codes: their scales' quotient is beyond float32."""
    return 1e-20 * draw(n, d), 1e33 * draw(k, d)


def _extreme(draw: Draw, n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """The ends of float32's range, whose products leave it, among ordinary numbers and zeros."""
    values = torch.tensor([3.4e38, -3.4e38, 1.2e-38, 1e-45, -1e-45, 0.0, 1.0, -2.5])
    x, codes = draw(n, d), draw(k, d)
    x[::2] = values[torch.arange(x[::2].numel()) * 5 % 8].reshape(-1, d)
    codes[::3] = values[torch.arange(codes[::3].numel()) * 3 % 8].reshape(-1, d)
    return x, codes


DATA: dict[str, Data] = {
    "gaussian": _gaussian,
    "clustered": _clustered,
    "duplicated": _duplicated,
    "lattice": _lattice,
    "permuted": _permuted,
    "near tie": _near_tie,
    "offset": _offset,
    "scaled": _scaled,
    "scaled rows": _scaled_rows,
    "unequal": _unequal,
    "extreme": _extreme,
}


@cache
def data(
    kind: str, n: int, k: int, d: int, dtype: torch.dtype = torch.float32, code_dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Rows [n, d] and codes [k, d], the same at every call."""
    generator = torch.Generator().manual_seed(d)
    x, codes = DATA[kind](lambda *shape: torch.randn(shape, generator=generator), n, k, d)
    return x.contiguous().to(dtype), codes.to(code_dtype)


def scores(x: Tensor, codes: Tensor, metric: str) -> Tensor:
    """All scores by the definition: float64, the columns in order; -inf where a code cannot be chosen."""
    rows, code_rows = x.double().numpy(), codes.double().numpy()
    dot, square = np.zeros((len(rows), len(code_rows))), np.zeros(len(code_rows))
    product = np.empty_like(dot)
    with np.errstate(all="ignore"):
        for column, code_column in zip(rows.T, code_rows.T):
            dot += np.multiply(column[:, None], code_column, out=product)
            square += code_column * code_column
        if metric == "l2":
            result = dot - square / 2
        elif metric == "cosine":
            result = dot * np.where(square == 0, 0, 1 / np.sqrt(square))
        else:
            result = dot
    return torch.from_numpy(np.where(np.isfinite(result) & np.isfinite(square), result, -np.inf))


def definition(x: Tensor, codes: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Index and float64 score of the nearest code."""
    return best_of(scores(x, codes, metric))


def best_of(every: Tensor) -> tuple[Tensor, Tensor]:
    best = torch.from_numpy(every.numpy().max(1))
    index = torch.from_numpy(every.numpy().argmax(1))  # the first of equals
    return index, best.where(best.isfinite(), torch.nan)


@cache
def expected(kind: str, *shape_and_dtypes: Any, metric: str) -> tuple[Tensor, Tensor]:
    """The definition on data(...), for all backends."""
    return definition(*data(kind, *shape_and_dtypes), metric)


def _raw_calls(logits: Tensor, key: Tensor) -> list[RawCall]:
    matrix = logits
    while matrix.dim() > 2:
        matrix = matrix[..., 0]
    x = matrix[None, :100, :16]  # the reference has a loop over blocks, which huge tensors must not enter
    codes = torch.linspace(-9, 9, 140 * x.shape[2], device=x.device).sin().to(x.dtype).reshape(2, 70, -1)
    return [
        ("nearest_code", (x, codes[:1], "l2", "exact", True)),
        ("nearest_code", (x.expand(2, -1, -1), codes, "cosine", "exact", False)),
    ]


X = torch.zeros(2, 3)
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "codebook rank": (
        {"codebook": X[0]},
        ValueError,
        "expected codebook of shape [K, D] or [H, K, D], got (3,)",
    ),
    "no codes": ({"codebook": X[:0]}, ValueError, "expected a codebook with codes, got shape (0, 3)"),
    "no columns": (
        {"x": X[:, :0], "codebook": X[:, :0]},
        ValueError,
        "expected a codebook with codes, got shape (2, 0)",
    ),
    "D": ({"codebook": torch.ones(4, 2)}, ValueError, "expected x of shape [..., 2], got (2, 3)"),
    "x of no dimensions": ({"x": X[0, 0]}, ValueError, "expected x of shape [..., 3], got ()"),
    "heads": (
        {"codebook": torch.ones(5, 4, 3)},
        ValueError,
        "expected x of shape [..., 5, 3], got (2, 3)",
    ),
    "no head dimension": (
        {"x": X[0], "codebook": torch.ones(3, 4, 3)},
        ValueError,
        "expected x of shape [..., 3, 3], got (3,)",
    ),
    "device": (
        {"codebook": torch.ones(4, 3, device="meta")},
        ValueError,
        "expected codebook on cpu, got meta",
    ),
    "float64": (
        {"x": X.double()},
        TypeError,
        "expected x and codebook both float64 or neither, got float64 and float32",
    ),
    "metric": ({"metric": "l1"}, ValueError, f"unknown metric 'l1', expected one of {', '.join(METRICS)}"),
    "metric type": ({"metric": None}, TypeError, "expected metric to be a str, got NoneType"),
    "precision": (
        {"precision": "fp16"},
        ValueError,
        "unknown precision 'fp16', expected one of exact, fp32, bf16",
    ),
    "precision type": ({"precision": 32}, TypeError, "expected precision to be a str, got int"),
}  # fmt: skip
OPINFO = OpInfo(
    "nearest_code",
    [],
    [],
    reference,
    _raw_calls,
    [
        ErrorInputs(search, {"x": X, "codebook": torch.ones(4, 3)}, BAD)
        for search in (nearest_code, nearest_code_scores)
    ],
    shared_outputs={"nearest_code": 2},  # what was scored again is the backend's own
    raw_errors=[
        RawError("codebook", lambda codes: codes[0], "x and codebook of three dimensions"),
        RawError("codebook", lambda codes: codes[..., :4], "x and codebook with the same heads and columns"),
        RawError("codebook", lambda codes: codes.repeat(2, 1, 1), "x and codebook with the same heads and columns"),
        RawError("codebook", lambda codes: codes[:, :0], "a codebook that is not empty"),
        RawError("codebook", lambda codes: codes.double(), "x and codebook both float64 or neither"),
        RawError("codebook", lambda codes: codes.long(), "a floating-point tensor"),
        RawError("metric", lambda _: "l1", "unknown metric l1"),
        RawError("precision", lambda _: "int4", "unknown precision int4"),
    ],
)
