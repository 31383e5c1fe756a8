"""The cases of the estimators of hard samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dvae_kernels import _rng, gumbel_softmax
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels.ops.hard_estimators import reference
from kit.dtypes import HALVES, autocast_to
from kit.layouts import repeated
from kit.opinfo import Case, Inputs, Op, OpInfo, RawCall, RawError, case_name

ESTIMATORS = ("straight_through", "reinmax", "gumbel_rao")
WIDTHS = (1, 2, 5, 8, 17, 64, 129, 1031, 4096, 20011)


def sample_case(
    shape: tuple[int, ...],
    hard: bool,
    dtype: torch.dtype = torch.float32,
    tau: float | str = 1.0,  # "tensor" is a 0-dim tensor, which needs a gradient where the estimator has one
    dim: int = -1,
    estimator: str = "gumbel",
    draws: int = 1,
    scale: float = 2.0,
    layout: str = "contiguous",
    grad_layout: str = "contiguous",
    autocast: bool = False,
    **options: Any,
) -> Case:
    """Of gumbel_softmax, by any estimator."""

    def inputs() -> Inputs:
        logits = scale * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        values = {"logits": repeated(logits, layout).to(dtype).clone()}
        if tau == "tensor" and estimator in ("gumbel", "straight_through"):
            values["tau"] = torch.tensor(0.7, dtype=compute_dtype(dtype))
        return values

    def call(inputs: Inputs, key: Tensor, backend: str) -> Tensor:
        logits = inputs["logits"]
        temperature = torch.tensor(1.5, device=logits.device) if tau == "tensor" else tau
        sampling: Any = {"estimator": estimator, "draws": draws, "key": key}
        with autocast_to(logits, dtype, autocast):
            return gumbel_softmax(logits, inputs.get("tau", temperature), hard, dim=dim, backend=backend, **sampling)

    def scores(inputs: Inputs, key: Tensor) -> Tensor:
        logits = torch.atleast_1d(inputs["logits"].detach().cpu().double())
        return logits + _rng.gumbel_like(logits, key, dim % logits.dim())

    function = f"gumbel_softmax {'hard' if hard else 'soft'}" if estimator == "gumbel" else estimator
    words = [dtype, f"tau={tau}", f"dim={dim}", "" if draws == 1 else f"draws={draws}"]
    return Case(
        case_name(function, shape, *words, scale=scale, layout=layout, grad_layout=grad_layout, autocast=autocast),
        inputs,
        call,
        dtype=torch.float32 if autocast else dtype,
        layout=layout,
        grad_layout=grad_layout,
        scores=scores if hard else None,
        dim=dim,
        **options,
    )


def estimator_case(
    shape: tuple[int, ...],
    estimator: str,
    dtype: torch.dtype = torch.float32,
    tau: float | str = 1.25,
    dim: int = -1,
    **options: Any,
) -> Case:
    widest = max(shape, default=0)
    keys = 4 if widest >= 4096 else 8
    return sample_case(shape, True, dtype, tau, dim, estimator, keys=keys, slow_interpreted=widest > 2000, **options)


def _cases() -> list[Case]:
    make = estimator_case
    cases = []
    for name in ESTIMATORS:
        draws = 3 if name == "gumbel_rao" else 1
        cases += [make((3 if k < 4096 else 1, k), name) for k in WIDTHS]
        cases += [make((), name), make((5,), name), make((0, 33), name), make((2, 0, 3), name, dim=1)]
        cases += [make((17, 33), name, tau=tau, draws=draws) for tau in (2.5, "tensor")]
        cases += [
            make((5, k), name, dtype, tau="tensor", draws=draws)
            for k in (5, 64, 129, 1031)
            for dtype in (torch.float64, *HALVES)
        ]
        cases += [make((4, 40), name, dtype, autocast=True) for dtype in HALVES]
        cases += [make((6, 100), name, dtype, scale=s, draws=draws)
                  for s, dtype in ((30, torch.float32), (1e4, torch.float32), (1e4, torch.float64))]  # fmt: skip
        cases += [
            make((2, 37, 5, 7), name, dim=d, layout=layout, grad_layout=grad_layout, draws=draws)
            for d, layout, grad_layout in (
                (1, "contiguous", "contiguous"),
                (1, "channels_last", "contiguous"),
                (1, "stepped", "guarded"),
                (1, "contiguous", "expanded_all"),
                (1, "expanded_first", "contiguous"),
                (0, "offset", "transposed"),
                (-2, "rotated", "stepped"),  # no two groups hold the other dimensions
            )
        ]
    cases += [make((4, 65), "straight_through", tau=0.1)]
    cases += [make((4, 65), "gumbel_rao", tau=tau, draws=draws) for tau, draws in ((0.1, 1), (0.5, 5), (1.0, 2))]
    cases += [make((1, 20011), "gumbel_rao", draws=2), make((2, 300, 12), "gumbel_rao", dim=1, draws=2)]
    return cases


CASES = _cases()


def _op(estimator: str) -> Op:
    options: dict[str, Any] = {"draws": 2} if estimator == "gumbel_rao" else {}
    learns = estimator == "straight_through"

    def inputs(shape: tuple[int, ...]) -> Inputs:
        logits = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return {"logits": logits} | ({"tau": torch.tensor(0.7, dtype=torch.float64)} if learns else {})

    def call(inputs: Inputs, backend: str, **noise: Any) -> Tensor:
        tau = inputs.get("tau", 1.25)
        return gumbel_softmax(
            inputs["logits"], tau, True, dim=1, estimator=estimator, backend=backend, **options, **noise
        )

    noise_grad = estimator != "straight_through"
    return Op(f"gumbel_softmax {estimator}", inputs, call, step=True, noise_grad=noise_grad)


def _raw_calls(logits: Tensor, key: Tensor) -> list[RawCall]:
    calls: list[RawCall] = []
    grad = torch.randn_like(logits)
    index = torch.zeros_like(logits[:, 0], dtype=torch.int64, memory_format=torch.contiguous_format)
    for tau in (None, torch.full((), 1.5, dtype=compute_dtype(logits.dtype), device=logits.device)):
        calls += [
            ("reinmax_bwd", (grad, logits, index, tau, 1.25, 1)),
            ("gumbel_rao_bwd", (grad, logits, key, index, tau, 0.7, 1, 2, 5)),
        ]
    return calls


def _hard(estimator: str, **arguments: Any) -> dict[str, Any]:
    return {"hard": True, "estimator": estimator, **arguments}


_UNKNOWN = "unknown estimator {!r}, expected one of gumbel, straight_through, reinmax, gumbel_rao"
_REFUSED = "expected a tau that requires no gradient for estimator {!r}, which gives none"
_LEARNING_TAU = torch.tensor(1.5, requires_grad=True)
# Bad calls of gumbel_softmax, for its table.
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "estimator unknown": ({"estimator": "st"}, ValueError, _UNKNOWN.format("st")),
    "estimator type": ({"estimator": None}, ValueError, _UNKNOWN.format(None)),
    "draws zero": (_hard("gumbel_rao", draws=0), ValueError, "expected draws in [1, 2^31), got 0"),
    "draws beyond": (_hard("gumbel_rao", draws=1 << 31), ValueError, "expected draws in [1, 2^31), got 2147483648"),
    "draws float": (_hard("gumbel_rao", draws=1.0), TypeError, "expected draws to be an int, got float"),
    "draws bool": (_hard("gumbel_rao", draws=True), TypeError, "expected draws to be an int, got bool"),
    "draws of reinmax": (
        _hard("reinmax", draws=2), ValueError, "expected draws of 1 for estimator 'reinmax', got 2",
    ),
    "draws of gumbel": ({"draws": 2}, ValueError, "expected draws of 1 for estimator 'gumbel', got 2"),
    "soft straight_through": (
        {"hard": False, "estimator": "straight_through"}, ValueError,
        "expected hard=True for estimator 'straight_through'",
    ),
    "soft gumbel_rao": (
        {"hard": False, "estimator": "gumbel_rao"}, ValueError, "expected hard=True for estimator 'gumbel_rao'",
    ),
    "cold reinmax": (_hard("reinmax", tau=0.5), ValueError, "expected tau >= 1 for estimator 'reinmax', got 0.5"),
    "tau of reinmax": (_hard("reinmax", tau=_LEARNING_TAU), ValueError, _REFUSED.format("reinmax")),
    "tau of gumbel_rao": (_hard("gumbel_rao", tau=_LEARNING_TAU), ValueError, _REFUSED.format("gumbel_rao")),
}  # fmt: skip
OPINFO = OpInfo(
    "hard_estimators",
    CASES,
    [_op(name) for name in ESTIMATORS],
    reference,
    _raw_calls,
    [],
    raw_errors=[
        RawError("grad", lambda grad: grad[:1], "tensors of one shape"),
        RawError("index", lambda index: index[:1], "one int64 index for each row"),
        RawError("index", lambda index: index.int(), "one int64 index for each row"),
        RawError("index", lambda index: index + 5, "indices below the number of categories"),
    ],
)
