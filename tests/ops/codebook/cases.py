"""The cases of gather_codes and code_sums, and raw calls of code_statistics, which has no gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._validate import dtype_name
from dvae_kernels.ops.codebook import code_sums, gather_codes, reference
from kit.dtypes import FLOATS
from kit.layouts import repeated
from kit.opinfo import Case, Inputs, Op, OpInfo, RawCall

FP32, FP64 = torch.float32, torch.float64
WIDTHS = (1, 2, 3, 4, 7, 8, 16, 17, 31, 64, 65, 100, 256, 257, 1031)


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def spread(count: int, codes: int, kind: str, device: torch.device | str = "cpu") -> Tensor:
    """Indices of `count` rows: "random", all "one" code, "sorted", nearly all one ("skewed"), or some "outside"."""
    generator = torch.Generator().manual_seed(1)
    indices = torch.randint(0, max(codes, 1), (count,), generator=generator)
    if kind == "one":
        indices = torch.full_like(indices, codes - 1)
    elif kind == "sorted":
        indices = indices.sort().values
    elif kind == "skewed":
        indices[torch.rand(count, generator=generator) < 0.95] = codes // 2
    elif kind == "outside":
        indices = torch.randint(-3, codes + 3, (count,), generator=generator)
    return indices.to(device)


def rows_and_indices(rows: int, columns: int, codes: int, kind: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Every eleventh row has one value that is not finite."""
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(5)).to(dtype)
    for i, value in zip(range(4, rows, 11), (math.nan, math.inf, -math.inf) * rows):
        x[i, i % columns] = value
    return x, spread(rows, codes, kind)


def _case(op: str, rows: int, columns: int, codes: int, dtype: torch.dtype, kind: str, **options: Any) -> Case:
    def inputs() -> Inputs:
        values = _random(codes if op == "gather_codes" else rows, columns).to(dtype)
        values = repeated(values, options.get("layout", "")).clone()
        return {"codebook" if op == "gather_codes" else "x": values}

    def call(inputs: Inputs, key: Tensor, backend: str) -> Tensor:
        (values,) = inputs.values()
        indices = spread(rows, codes, kind, values.device)
        if op == "gather_codes":
            return gather_codes(values, indices, backend)
        return code_sums(values, indices, codes, backend)

    name = f"{op} {rows} rows {codes}x{columns} {dtype_name(dtype)} {kind}"
    name += "".join(f" {option}" for option in options.values() if isinstance(option, str))
    output = dtype if op == "gather_codes" else compute_dtype(dtype)
    return Case(name, inputs, call, output, keys=4, **options)


def _cases() -> list[Case]:
    cases = []
    for op in ("gather_codes", "code_sums"):
        cases += [_case(op, 70, columns, 5, FP32, "random", slow_interpreted=columns > 200) for columns in WIDTHS]
        # rows about the borders of blocks of 64, and of 32 blocks
        cases += [_case(op, rows, 8, 3, FP32, "random") for rows in (0, 1, 2, 63, 64, 65, 128, 129, 2047, 2049)]
        cases += [_case(op, 300, columns, codes, FP32, "skewed")
                  for columns, codes in ((0, 3), (3, 1), (5, 299), (4, 1000))]  # fmt: skip
        kinds = ("random", "one", "sorted", "skewed")
        cases += [_case(op, 700, 20, 9, dtype, kind) for dtype in FLOATS for kind in kinds]
        cases += [
            _case(op, 130, columns, 140, dtype, "random", layout=layout, grad_layout=grad_layout)
            for dtype, columns in ((FP32, 16), (torch.float16, 12))
            for layout, grad_layout in (
                ("guarded", "offset"),
                ("offset", "guarded"),
                ("stepped", "transposed"),
                ("transposed", "stepped"),
                ("expanded_first", "expanded_all"),
                ("expanded_last", "contiguous"),
            )
        ]
    cases += [_case("code_sums", 400, 6, 5, dtype, "outside") for dtype in (FP32, FP64)]
    return cases


def _gather_inputs(shape: tuple[int, ...]) -> Inputs:
    return {"codebook": _random(shape[1], shape[0])}


def _gather(inputs: Inputs, backend: str) -> Tensor:
    """Every code about twice, and some zeros."""
    codes = inputs["codebook"].shape[0]
    indices = torch.arange(2 * codes + 3, device=inputs["codebook"].device) % (codes + 1) - 1
    return gather_codes(inputs["codebook"], indices, backend)


def _sums_inputs(shape: tuple[int, ...]) -> Inputs:
    return {"x": _random(shape[0] + 3, shape[1])}


def _sums(inputs: Inputs, backend: str) -> Tensor:
    """Five codes, of which the first and the last lie outside."""
    indices = torch.arange(inputs["x"].shape[0], device=inputs["x"].device) * 7 % 5 - 1
    return code_sums(inputs["x"], indices, 3, backend)


def _raw_calls(logits: Tensor, key: Tensor) -> list[RawCall]:
    matrix = logits
    while matrix.dim() > 2:
        matrix = matrix[..., 0]
    indices = torch.zeros_like(matrix[:, 0], dtype=torch.int64)
    return [
        ("gather_codes", (matrix, indices)),
        ("gather_codes", (matrix, torch.zeros_like(matrix[:2, :2], dtype=torch.int64))),
        ("code_sums", (matrix, indices, 7)),
        ("code_sums", (matrix[:1].expand(matrix.shape), indices - 1, 7)),
        ("code_statistics", (matrix, indices, 7)),
    ]


OPINFO = OpInfo(
    "codebook",
    _cases(),
    [
        Op("gather_codes", _gather_inputs, _gather, draws=False),
        Op("code_sums", _sums_inputs, _sums, draws=False),
    ],
    reference,
    _raw_calls,
    [],
)
