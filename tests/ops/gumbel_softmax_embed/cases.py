"""The cases of gumbel_softmax_embed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dvae_kernels import gumbel_softmax_embed, gumbel_softmax_embed_kl
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._validate import dtype_name
from dvae_kernels.ops.gumbel_softmax_embed import reference
from kit.dtypes import FLOATS, autocast_to
from kit.opinfo import Case, ErrorInputs, Inputs, Op, OpInfo, RawCall

FP32, FP64, FP16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
D = 6


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _embed(inputs: Inputs, tau: float | None, hard: bool, dim: int, kl: bool, backend: str, **noise: Any) -> Tensor:
    """The embedding; with the KL, the KL of each of its rows is added, so that both have a gradient."""
    logits, temperature = inputs["logits"], inputs.get("tau", tau)
    options = {"dim": dim, "backend": backend, **noise}
    if not kl:
        return gumbel_softmax_embed(logits, inputs["codebook"], temperature, hard, **options)[0]  # type: ignore[arg-type]
    embedding, _, rows = gumbel_softmax_embed_kl(logits, inputs["codebook"], temperature, hard, **options)  # type: ignore[arg-type]
    return embedding + rows.unsqueeze(dim).to(embedding.dtype)


def _case(
    shape: tuple[int, ...],
    hard: bool,
    dtype: torch.dtype = FP32,
    codes: torch.dtype | None = None,  # the codebook's, where it is another
    tau: float | None = None,  # None: a tensor that learns
    dim: int = -1,
    kl: bool = False,
    autocast: bool = False,
    **options: Any,
) -> Case:
    codes = codes or dtype

    def inputs() -> Inputs:
        values = {"logits": (2 * _random(*shape)).to(dtype), "codebook": _random(shape[dim], D, seed=1).to(codes)}
        return values | ({"tau": torch.tensor(0.7, dtype=compute_dtype(dtype))} if tau is None else {})

    def call(inputs: Inputs, key: Tensor, backend: str) -> Tensor:
        logits = inputs["logits"]
        with autocast_to(logits, dtype, autocast):
            return _embed(inputs, tau, hard, dim, kl, backend, key=key)

    words = [
        "gumbel_softmax_embed", "hard" if hard else "soft", "x".join(map(str, shape)), dtype_name(dtype),
        "" if codes == dtype else f"codes={dtype_name(codes)}", "tau=tensor" if tau is None else f"tau={tau}",
        f"dim={dim}", "kl" if kl else "", "autocast" if autocast else "", *options.values(),
    ]  # fmt: skip
    return Case(
        " ".join(word for word in words if word), inputs, call, codes, dim=dim, keys=8, products=True, **options
    )


def _cases() -> list[Case]:
    cases = []
    for hard in (False, True):
        cases += [_case((5, k), hard, tau=0.7) for k in (1, 2, 17, 64, 129, 1031)]
        cases += [_case(shape, hard, dim=dim) for shape, dim in (((0, 4), -1), ((2, 4, 0), 1), ((4, 5), 0), ((3,), 0))]
        cases += [_case((4, 33), hard, dtype, tau=tau, kl=kl)
                  for dtype in FLOATS for tau, kl in ((None, False), (0.5, True))]  # fmt: skip
        cases += [_case((4, 33), hard, dtype, codes) for dtype, codes in ((FP32, BF16), (BF16, FP32), (FP16, BF16))]
        cases += [_case((4, 33), hard, dtype, codes, autocast=True) for dtype, codes in ((BF16, BF16), (FP16, FP32))]
        cases += [
            _case((2, 20, 3, 5), hard, dtype, dim=1, kl=True, layout=layout, grad_layout=grad_layout)
            for dtype, layout, grad_layout in (
                (FP32, "contiguous", "transposed"),
                (FP32, "guarded", "offset"),
                (FP32, "stepped", "expanded_all"),
                (FP64, "rotated", "contiguous"),
                (FP16, "transposed", "stepped"),
            )
        ]
    return cases


def _op(hard: bool, tau: float | None, kl: bool) -> Op:
    def inputs(shape: tuple[int, ...]) -> Inputs:
        values = {"logits": _random(*shape), "codebook": _random(shape[1], 3, seed=1)}
        return values | ({"tau": torch.tensor(0.7, dtype=FP64)} if tau is None else {})

    def call(inputs: Inputs, backend: str, **noise: Any) -> Tensor:
        return _embed(inputs, tau, hard, 1, kl, backend, **noise)

    words = [
        "gumbel_softmax_embed",
        "hard" if hard else "soft",
        "" if tau is None else f"tau={tau}",
        "kl" if kl else "",
    ]
    return Op(" ".join(word for word in words if word), inputs, call, step=hard)


def _raw_calls(logits: Tensor, key: Tensor) -> list[RawCall]:
    """On [outer, K, inner]."""
    while logits.dim() > 3:
        logits = logits[..., 0]
    if logits.dim() == 2:
        logits = logits.unsqueeze(2)
    dtype, compute = logits.dtype, compute_dtype(logits.dtype)
    codebook = logits.new_zeros(logits.shape[1], 3)
    indices = torch.zeros_like(logits[:, 0], dtype=torch.int64)
    grad, grad_kl = torch.ones_like(logits[:, :1].expand(-1, 3, -1)), torch.ones_like(indices, dtype=compute)
    tau = torch.full((), 0.5, dtype=compute, device=logits.device)
    fwd, bwd = "gumbel_softmax_embed_fwd", "gumbel_softmax_embed_bwd"
    noise = (key, None, 0.7)
    return [
        (fwd, (logits, codebook, *noise, True, 0, dtype, True, False)),
        (fwd, (logits, codebook, key, tau, 0.0, False, 5, dtype, True, True)),
        (fwd, (logits, codebook, *noise, False, 5, compute, False, False)),
        (bwd, (grad, None, logits, None, codebook, indices, *noise, 5, dtype, True, True, False)),
        (bwd, (grad, grad_kl, logits, None, codebook, indices, key, tau, 0.0, 5, dtype, True, False, True)),
        (bwd, (grad, None, None, logits.softmax(1), codebook, indices, *noise, 0, dtype, True, True, False)),
        (bwd, (None, grad_kl, logits, None, codebook, indices, *noise, 0, dtype, True, True, False)),
    ]


X, C = torch.zeros(2, 3), torch.zeros(3, 4)
OPINFO = OpInfo(
    "gumbel_softmax_embed",
    _cases(),
    [_op(False, 0.7, False), _op(False, None, True), _op(True, None, False), _op(True, 0.7, True)],
    reference,
    _raw_calls,
    [
        ErrorInputs(
            gumbel_softmax_embed,
            {"logits": X, "codebook": C},
            {
                "codebook rank": (
                    {"codebook": C[0]}, ValueError, "expected codebook of shape [3, D], got (4,)",
                ),
                "codebook rows": (
                    {"codebook": C[:2]}, ValueError, "expected codebook of shape [3, D], got (2, 4)",
                ),
                "codebook device": (
                    {"codebook": C.to("meta")}, ValueError, "expected codebook on cpu, got meta",
                ),
                "codebook double": (
                    {"codebook": C.double()}, TypeError,
                    "expected logits and codebook both float64 or neither, got float32 and float64",
                ),
                "no category": (
                    {"logits": X[:, :0], "codebook": C[:0]}, ValueError,
                    "expected at least one category along dim 1, got shape (2, 0)",
                ),
            },
        )
    ],
)  # fmt: skip
