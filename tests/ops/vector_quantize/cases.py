"""The cases of vector_quantize."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dvae_kernels import vector_quantize
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._validate import dtype_name
from dvae_kernels.ops.nearest_code import METRICS
from dvae_kernels.ops.vector_quantize import reference
from kit.layouts import META, repeated
from kit.opinfo import Case, ErrorInputs, Inputs, Op, OpInfo, RawCall, RawError

FP32, FP64, FP16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _quantize(inputs: Inputs, backend: str, **options: Any) -> Tensor:
    """The quantized rows beside their losses, so that both have a gradient."""
    quantized, _, losses = vector_quantize(
        inputs["x"], inputs["codebook"], codebook_weight=0.5, reduction="none", backend=backend, **options
    )
    return torch.cat([quantized, losses[..., None].to(quantized.dtype)], -1)


def _mask(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.arange(shape[0], device=device).reshape(-1, *[1] * (len(shape) - 1)) % 3 != 1


def _case(
    shape: tuple[int, ...],  # of x
    codes: tuple[int, ...],  # [K], or [H, K]
    gradient: str = "straight_through",
    dtype: torch.dtype = FP32,
    book: torch.dtype | None = None,  # the codebook's dtype, where it is another
    masked: bool = False,
    metric: str = "l2",
    **options: Any,
) -> Case:
    book = book or dtype

    def inputs() -> Inputs:
        values = {"x": _random(*shape).to(dtype), "codebook": _random(*codes, shape[-1], seed=1).to(book)}
        return {name: repeated(x, options.get("layout", "")).clone() for name, x in values.items()}

    def call(inputs: Inputs, key: Tensor, backend: str) -> Tensor:
        x = inputs["x"]
        mask = _mask(x.shape[: -len(codes)], x.device) if masked else None
        return _quantize(inputs, backend, gradient=gradient, mask=mask, metric=metric)

    words = [
        "vector_quantize", "x".join(map(str, shape)), "x".join(map(str, codes)), gradient, dtype_name(dtype),
        "" if book == dtype else f"codes={dtype_name(book)}", "masked" if masked else "", metric, *options.values(),
    ]  # fmt: skip
    return Case(" ".join(word for word in words if word), inputs, call, dtype, keys=2, **options)


def _cases() -> list[Case]:
    cases = [_case(shape, codes) for shape, codes in (((0, 4), (3,)), ((5,), (1,)), ((2, 3, 2, 4), (2, 1)))]
    for gradient, widths in (("straight_through", (1, 17, 64, 1031)), ("rotation", (2, 33, 129, 1031))):
        cases += [_case((9, columns), (5,), gradient, masked=columns % 2 == 1) for columns in widths]
        cases += [_case((3, 4, 2, 33), (2, 7), gradient, dtype, masked=True, metric=metric)
                  for dtype, metric in ((FP32, "l2"), (FP64, "cosine"), (FP16, "l2"), (BF16, "l2"))]  # fmt: skip
        cases += [_case((9, 33), (5,), gradient, dtype, book) for dtype, book in ((FP32, BF16), (BF16, FP32))]
    cases += [
        _case((4, 3, 20), (6,), gradient, dtype, layout=layout, grad_layout=grad_layout)
        for gradient, dtype, layout, grad_layout in (
            ("straight_through", FP32, "guarded", "offset"),
            ("rotation", FP32, "stepped", "transposed"),
            ("straight_through", FP16, "transposed", "stepped"),
            ("rotation", FP32, "expanded_last", "guarded"),
            ("straight_through", FP32, "expanded_second", "expanded_all"),
        )
    ]
    return cases


def _inputs(shape: tuple[int, ...]) -> Inputs:
    return {"x": _random(*shape), "codebook": _random(5, shape[-1], seed=1)}


def _call(inputs: Inputs, backend: str) -> Tensor:
    return _quantize(inputs, backend, gradient="rotation")


def _raw_calls(logits: Tensor, key: Tensor) -> list[RawCall]:
    matrix = logits
    while matrix.dim() > 2:
        matrix = matrix[..., 0]
    rows, dtype, compute = matrix, matrix.dtype, compute_dtype(matrix.dtype)
    indices, losses = torch.zeros_like(rows[:, 0], dtype=torch.int64), torch.ones_like(rows[:, 0], dtype=compute)
    books = rows.new_ones((1, 1, rows.shape[1]))
    fwd, bwd = "vector_quantize_fwd", "vector_quantize_bwd"
    return [
        (fwd, (rows, rows[:2], indices, False)),
        (fwd, (rows, rows[:2].to(compute), indices - 1, True)),
        (bwd, (rows, losses, rows, rows + 1, indices, 0.25, 0.5, True, True)),
        (bwd, (rows[:1].expand(rows.shape), None, rows, (rows + 1).to(compute), indices, 0.25, 0.5, False, False)),
        (bwd, (None, losses, rows, rows.to(dtype), indices, 0.25, 0.0, False, False)),
        ("sample_codes", (rows[None], books, key, "l2", None, 1.0, 5)),
    ]


X, C = torch.zeros(2, 3), torch.zeros(4, 3)
MASK = torch.ones(2, dtype=torch.bool)


def _weight_errors(name: str) -> dict[str, tuple[dict[str, Any], type[Exception], str]]:
    expected = f"expected finite {name} >= 0"
    return {
        f"{name} negative": ({name: -0.5}, ValueError, f"{expected}, got -0.5"),
        f"{name} nan": ({name: torch.nan}, ValueError, f"{expected}, got nan"),
        f"{name} infinite": ({name: torch.inf}, ValueError, f"{expected}, got inf"),
        f"{name} tensor": ({name: X}, TypeError, f"expected {name} to be a float, got Tensor"),
        f"{name} bool": ({name: True}, TypeError, f"expected {name} to be a float, got bool"),
    }


OPINFO = OpInfo(
    "vector_quantize",
    _cases(),
    [Op("vector_quantize rotation", _inputs, _call, draws=False, held=True)],
    reference,
    _raw_calls,
    [
        ErrorInputs(
            vector_quantize,
            {"x": X, "codebook": C, "temperature": 1.0},
            {
                **_weight_errors("commitment_weight"),
                **_weight_errors("codebook_weight"),
                "gradient": (
                    {"gradient": "straight"}, ValueError,
                    "unknown gradient 'straight', expected one of straight_through, rotation",
                ),
                "gradient type": ({"gradient": 1}, TypeError, "expected gradient to be a str, got int"),
                "metric": ({"metric": "l1"}, ValueError, f"unknown metric 'l1', expected one of {', '.join(METRICS)}"),
                "reduction": (
                    {"reduction": "max"}, ValueError, "unknown reduction 'max', expected one of mean, sum, none",
                ),
                "mask list": ({"mask": [True, True]}, TypeError, "expected mask to be a Tensor, got list"),
                "mask sparse": (
                    {"mask": MASK.to_sparse()}, TypeError, "expected strided mask, got layout torch.sparse_coo",
                ),
                "mask dtype": ({"mask": MASK.long()}, TypeError, "expected mask of dtype bool, got int64"),
                "mask device": ({"mask": MASK.to(META)}, ValueError, "expected mask on cpu, got meta"),
                "mask shape": (
                    {"mask": MASK[:, None]}, ValueError, "expected mask that broadcasts to (2,), got shape (2, 1)",
                ),
                "codebook rank": (
                    {"codebook": C[0]}, ValueError, "expected codebook of shape [K, D] or [H, K, D], got (3,)",
                ),
                "codebook width": (
                    {"codebook": C[:, :2]}, ValueError, "expected x of shape [..., 2], got (2, 3)",
                ),
                "no codes": ({"codebook": C[:0]}, ValueError, "expected a codebook with codes, got shape (0, 3)"),
                "codebook device": ({"codebook": C.to(META)}, ValueError, "expected codebook on cpu, got meta"),
                "codebook double": (
                    {"codebook": C.double()}, TypeError,
                    "expected x and codebook both float64 or neither, got float32 and float64",
                ),
            },
        )
    ],
    raw_errors=[
        RawError("codebook", lambda codes: codes[:, :2], "codes as wide as x", op="fwd"),
        RawError("codebook", lambda codes: codes.double(), "both float64 or neither", op="fwd"),
        RawError("indices", lambda indices: indices[:1], "one index a row"),
        RawError("indices", lambda indices: indices.int(), "expected int64 indices"),
        RawError("codes", lambda codes: codes[:1], "one code a row"),
        RawError("grad", lambda grad: grad[:1, :4], "grad of the shape of x"),
        RawError("grad", lambda grad: grad.half(), "tensors of one dtype"),
        RawError("grad_losses", lambda losses: losses.double(), "one value in the compute type for each row"),
        RawError("grad_losses", lambda losses: losses[:1], "one value in the compute type for each row"),
    ],
)  # fmt: skip
