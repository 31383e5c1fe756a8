"""The tables of smoothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dvae_kernels import SMOOTHING_KINDS, smoothing_log_prob, smoothing_transform
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels.ops.smoothing import reference
from kit.dtypes import HALVES, autocast_to
from kit.layouts import ELEMENTWISE_LAYOUTS, repeated
from kit.opinfo import Case, ErrorInputs, Inputs, Op, OpInfo, RawCall, RawError, case_name

# The kinds that meet every size, layout and form of beta; the others share their kernels.
CHOSEN = ("spike_exponential", "power")
COUNTS = (1, 2, 3, 5, 8, 15, 16, 17, 64, 65, 1031, 2045, 2049)


def _random(shape: tuple[int, ...], layout: str, seed: int) -> Tensor:
    return repeated(torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), layout)


def _uniform(x: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.special.ndtr(x)


def _beta(beta: float | str | tuple[int, ...], shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> Inputs:
    """Beta as an input, where it is a shape, "full" or "tensor" (one number)."""
    compute = compute_dtype(dtype)
    if beta == "tensor":
        return {"beta": torch.tensor(4.5, dtype=compute)}
    if isinstance(beta, float):
        return {}
    values = _random(shape if beta == "full" else beta, layout if beta == "full" else "contiguous", 2)  # type: ignore[arg-type]
    return {"beta": (3 * torch.exp(0.5 * values)).clamp(0.4, 12).to(compute)}


def transform_case(
    shape: tuple[int, ...],
    kind: str,
    dtype: torch.dtype = torch.float32,
    beta: float | str | tuple[int, ...] = "tensor",
    noise: str = "",
    index_offset: int = 0,
    scale: float = 2.0,
    layout: str = "contiguous",
    grad_layout: str = "contiguous",
    autocast: bool = False,
    keys: int = 8,
    **options: Any,
) -> Case:
    """`noise`: "" for the stream's, "own" for one of the dtype of the computation, "half" for one of the logits'."""

    def inputs() -> Inputs:
        values = {"logits": (scale * _random(shape, layout, 0)).to(dtype), **_beta(beta, shape, layout, dtype)}
        if noise and SMOOTHING_KINDS[kind].noise_grad:
            values["noise"] = given()
        return {name: x.clone() for name, x in values.items()}

    def given() -> Tensor:
        uniform = _uniform(_random(shape, layout, 1), 0.001, 0.999)
        return uniform.to(dtype if noise == "half" else compute_dtype(dtype))

    def call(inputs: Inputs, key: Tensor, backend: str) -> Tensor:
        logits, sharpness = inputs["logits"], inputs.get("beta", beta)
        source: dict[str, Any] = {"key": key, "index_offset": index_offset}
        if noise:
            uniform = inputs.get("noise")
            source = {"noise": given().to(logits) if uniform is None else uniform}
        with autocast_to(logits, dtype, autocast):
            return smoothing_transform(logits, sharpness, kind, backend=backend, **source)  # type: ignore[arg-type]

    return Case(
        name=case_name(
            f"smoothing {kind}", shape, dtype, f"beta={beta}", f"noise={noise}" if noise else "",
            f"from {index_offset}" if index_offset else "", scale=scale,
            layout=layout, grad_layout=grad_layout, autocast=autocast,
        ),
        inputs=inputs,
        call=call,
        dtype=torch.float32 if autocast else dtype,
        layout=layout,
        grad_layout=grad_layout,
        keys=keys,
        **options,
    )  # fmt: skip


def _zeta(kind: str, logits: Tensor, seed: int = 1) -> Tensor:
    """Points of the support, away from its ends and from the threshold of "root"; of a spike kind, a few on the
    spike."""
    uniform = _uniform(_random(tuple(logits.shape), "contiguous", seed), 0.03, 0.95)
    if SMOOTHING_KINDS[kind].whole_line:
        return 3 * uniform - 1
    if kind == "root":  # on either side of 1 - p, some of the way to the end
        q = torch.sigmoid(-logits)
        way = _uniform(_random(tuple(logits.shape), "contiguous", seed + 1), 0.1, 0.9)
        return torch.where(uniform < 0.5, q * (1 - way), q + (1 - q) * way).clamp(0.003, 0.99)
    return torch.where(uniform < 0.2, 0, uniform) if SMOOTHING_KINDS[kind].spike else uniform


def log_prob_case(
    shape: tuple[int, ...],
    kind: str,
    dtype: torch.dtype = torch.float32,
    zeta_dtype: torch.dtype | None = None,
    beta: float | str | tuple[int, ...] = "tensor",
    layout: str = "contiguous",
    grad_layout: str = "contiguous",
    logits_shape: tuple[int, ...] | None = None,
    **options: Any,
) -> Case:
    def inputs() -> Inputs:
        logits = _random(shape if logits_shape is None else logits_shape, layout, 0).to(dtype)
        zeta = repeated(_zeta(kind, torch.zeros(shape, dtype=torch.float64) + logits.double()), layout)
        zeta = zeta.to(zeta_dtype or dtype)
        values = {"zeta": zeta, "logits": logits, **_beta(beta, tuple(zeta.shape), layout, dtype)}
        return {name: x.clone() for name, x in values.items()}

    def call(inputs: Inputs, key: Tensor, backend: str) -> Tensor:
        sharpness: Any = inputs.get("beta", beta)
        return smoothing_log_prob(inputs["zeta"], inputs["logits"], sharpness, kind, backend=backend)

    return Case(
        name=case_name(
            f"smoothing_log_prob {kind}", shape, dtype, f"zeta={zeta_dtype}" if zeta_dtype else "", f"beta={beta}",
            "" if logits_shape is None else f"logits {list(logits_shape)}", layout=layout, grad_layout=grad_layout,
        ),
        inputs=inputs,
        call=call,
        dtype=compute_dtype(dtype),
        layout=layout,
        grad_layout=grad_layout,
        keys=8,
        **options,
    )  # fmt: skip


def _cases() -> list[Case]:
    fp32, fp64, fp16 = torch.float32, torch.float64, torch.float16
    cases = []
    for kind in SMOOTHING_KINDS:
        cases += [transform_case((517,), kind), log_prob_case((67,), kind)]
        cases += [transform_case((67,), kind, beta="full", noise="own", index_offset=3)]
        # Triton's launchers and dtypes do not know the kinds: for the interpreter, those of CHOSEN[-1] are enough
        cases += [transform_case((67,), kind, beta=1.5, slow_interpreted=True)]
        cases += [transform_case((131,), kind, dtype, slow_interpreted=True) for dtype in (fp64, fp16)]
        cases += [transform_case((19,), kind, fp64, beta="full", noise="own", slow_interpreted=True)]
        cases += [log_prob_case((67,), kind, beta="full", slow_interpreted=True)]
        cases += [log_prob_case((19,), kind, dtype, slow_interpreted=True) for dtype in (fp64, fp16)]
    for kind in CHOSEN:
        start = len(cases)
        cases += [transform_case((n,), kind) for n in COUNTS]
        cases += [transform_case(shape, kind) for shape in ((), (0,), (2, 0, 3), (3, 5, 7))]
        cases += [transform_case((2, 0, 3), kind, beta="full", noise="own")]
        cases += [transform_case((515,), kind, dtype, beta="full") for dtype in (fp32, *HALVES)]
        cases += [transform_case((70,), kind, dtype, autocast=True) for dtype in HALVES]
        cases += [transform_case((70,), kind, dtype, noise=noise) for dtype in HALVES for noise in ("own", "half")]
        cases += [transform_case((66,), kind, beta=beta) for beta in (1.2, 4.0, 30.0)]
        cases += [transform_case((4, 65), kind, scale=s) for s in (30, 1e4)]
        # blocks that start in the middle of a counter, the 2^32nd counter inside of one, the last elements of all
        offsets = (1, 2, 3, 2047, 2**34 - 1003, 2**64 - 4099)
        cases += [transform_case((4099,), kind, index_offset=offset, keys=16) for offset in offsets]
        cases += [transform_case((70,), kind, dtype, index_offset=3) for dtype in (fp64, *HALVES)]
        cases += [transform_case((4, 3, 5), kind, beta=shape) for shape in ((1,), (5,), (3, 1), (4, 1, 5))]
        for layout, grad_layout in ELEMENTWISE_LAYOUTS:
            beta, noise = ("full", "own") if layout != "contiguous" else ("tensor", "")
            cases += [
                transform_case((2, 3, 5, 7), kind, beta=beta, noise=noise, layout=layout, grad_layout=grad_layout)
            ]
        cases += [transform_case((2, 3, 5, 7), kind, fp16, layout="channels_last", index_offset=2)]
        if kind != CHOSEN[-1]:
            cases[start:] = [replace(case, slow_interpreted=True) for case in cases[start:]]
    cases += [transform_case((66,), "spike_exponential", beta=0.1)]
    # powers 1 / beta of numbers near 1
    cases += [transform_case((517,), kind, beta=beta) for kind in ("root", "spike_root") for beta in (0.1, 0.2)]
    cases += [transform_case((n,), "power", keys=2, slow_interpreted=n > 30_000) for n in (20011, 200003)]
    for kind in ("spike_power", "exponential_mixture"):
        start = len(cases)
        # sharp where there are few: a density near 1 is a small sum of numbers that are not
        cases += [log_prob_case((n,), kind, beta=30.0) for n in (1, 3, 16, 17)]
        cases += [log_prob_case((), kind, beta=30.0)]
        cases += [log_prob_case(shape, kind) for shape in ((0,), (3, 5, 7), (2049,))]
        cases += [log_prob_case((70,), kind, dtype, fp32, "full") for dtype in HALVES]
        cases += [log_prob_case((66,), kind, beta=beta) for beta in (1.5, 8.0)]
        cases += [
            log_prob_case((2, 3, 5, 7), kind, beta="full", layout=x, grad_layout=g) for x, g in ELEMENTWISE_LAYOUTS[:7]
        ]
        cases += [log_prob_case((4, 3, 5), kind, beta=(3, 1), logits_shape=shape) for shape in ((), (5,), (4, 1, 5))]
        if kind == "spike_power":
            cases[start:] = [replace(case, slow_interpreted=True) for case in cases[start:]]
    return cases


def _op(kind: str, forms: str) -> Op:
    """`forms`: "scalar" for one beta and noise of the stream, "full" for both as tensors of all elements."""

    def inputs(shape: tuple[int, ...]) -> Inputs:
        logits, x, y = (_random(shape, "contiguous", seed) for seed in range(3))
        if forms == "scalar":
            return {"logits": logits, "beta": torch.tensor(3.7, dtype=torch.float64)}
        return {"logits": logits, "beta": _uniform(x, 2, 7), "noise": _uniform(y, 0.05, 0.95)}

    def call(inputs: Inputs, backend: str, **noise: Any) -> Tensor:
        source: Any = {"noise": inputs["noise"]} if forms == "full" else {"index_offset": 5, **noise}
        return smoothing_transform(inputs["logits"], inputs["beta"], kind, backend=backend, **source)

    return Op(f"smoothing {kind} {forms}", inputs, call, draws=forms == "scalar")


def _log_prob_op(kind: str) -> Op:
    def inputs(shape: tuple[int, ...]) -> Inputs:
        logits = _random(shape, "contiguous", 0)
        return {"zeta": _uniform(_random(shape, "contiguous", 1), 0.1, 0.9), "logits": logits,
                "beta": torch.tensor(3.7, dtype=torch.float64)}  # fmt: skip

    def call(inputs: Inputs, backend: str) -> Tensor:
        return smoothing_log_prob(inputs["zeta"], inputs["logits"], inputs["beta"], kind, backend=backend)

    return Op(f"smoothing_log_prob {kind}", inputs, call, draws=False)


def _raw_calls(logits: Tensor, key: Tensor) -> list[RawCall]:
    dtype, compute = logits.dtype, compute_dtype(logits.dtype)
    zeta = torch.sigmoid(logits)
    grad = torch.randn_like(zeta)
    # The noise keeps some of the way from the threshold, where float32 makes much of the roots' slopes.
    p, way = torch.sigmoid(logits.to(compute)), 0.2 + 0.6 * torch.sigmoid(torch.randn_like(zeta.to(compute)))
    noise, log_grad = torch.where(grad > 0, 1 - way * p, way * (1 - p)), grad.to(compute)
    one, full = torch.full((), 2.5, dtype=compute, device=logits.device), 1 + noise
    return [
        ("smoothing_fwd", (logits, None, key, None, 2.0, "power", 0, dtype)),
        ("smoothing_fwd", (logits, noise, None, full, 0.0, "spike_exponential", 5, compute)),
        ("smoothing_bwd", (grad, logits, None, key, None, 2.0, "logistic_mixture", 0, False, False)),
        ("smoothing_bwd", (grad, logits, None, key, None, 2.0, "spike_power", 5, True, False)),
        ("smoothing_bwd", (grad[:1].expand(grad.shape), logits, noise, None, one, 0.0, "spike_root", 0, True, True)),
        ("smoothing_bwd", (grad, logits, noise, None, full, 0.0, "exponential_mixture", 0, True, True)),
        ("smoothing_log_prob_fwd", (zeta.to(compute), logits, full, 0.0, "power")),
        ("smoothing_log_prob_bwd", (log_grad, zeta, logits, one, 0.0, "power_mixture", True)),
        ("smoothing_log_prob_bwd", (log_grad, zeta.to(compute), logits, full, 0.0, "spike_exponential", True)),
    ]


X = torch.zeros(2, 3)
KEY = torch.tensor([1, 2])
_range = "expected elements within [0, 2^64), got 6 from index_offset"
_kinds = f"expected one of {', '.join(SMOOTHING_KINDS)}"
_sharpness = {
    "beta negative": ({"beta": -0.5}, ValueError, "expected finite beta > 0, got -0.5"),
    "beta zero": ({"beta": 0}, ValueError, "expected finite beta > 0, got 0"),
    "beta nan": ({"beta": math.nan}, ValueError, "expected finite beta > 0, got nan"),
    "beta infinite": ({"beta": math.inf}, ValueError, "expected finite beta > 0, got inf"),
    "beta beyond floats": ({"beta": 10**400}, ValueError, f"expected finite beta > 0, got {10**400}"),
    "beta text": ({"beta": "1"}, TypeError, "expected beta to be a float or a Tensor, got str"),
    "beta none": ({"beta": None}, TypeError, "expected beta to be a float or a Tensor, got NoneType"),
    "beta bool": ({"beta": True}, TypeError, "expected beta to be a float or a Tensor, got bool"),
    "beta integers": ({"beta": torch.ones(3).long()}, TypeError, "expected floating-point beta, got int64"),
    "beta sparse": ({"beta": X.to_sparse()}, TypeError, "expected strided beta, got layout torch.sparse_coo"),
    "beta shape": ({"beta": torch.ones(2)}, ValueError, "expected beta that broadcasts to (2, 3), got shape (2,)"),
    "beta rank": (
        {"beta": torch.ones(4, 2, 3)}, ValueError, "expected beta that broadcasts to (2, 3), got shape (4, 2, 3)",
    ),
    "beta empty": ({"beta": torch.ones(0)}, ValueError, "expected beta that broadcasts to (2, 3), got shape (0,)"),
    "beta device": ({"beta": torch.ones(3, device="meta")}, ValueError, "expected beta on cpu, got meta"),
    "kind": ({"kind": "spike"}, ValueError, f"unknown kind 'spike', {_kinds}"),
    "kind case": ({"kind": "Power"}, ValueError, f"unknown kind 'Power', {_kinds}"),
    "kind type": ({"kind": 1}, TypeError, "expected kind to be a str, got int"),
}  # fmt: skip
OPINFO = OpInfo(
    "smoothing",
    _cases(),
    [_op("power", "full"), _op("spike_exponential", "scalar"), _log_prob_op("exponential_mixture")],
    reference,
    _raw_calls,
    [
        ErrorInputs(
            smoothing_transform,
            {"logits": X, "beta": 2.0},
            {
                **_sharpness,
                "noise list": ({"noise": [0.5]}, TypeError, "expected noise to be a Tensor, got list"),
                "noise integers": ({"noise": X.long()}, TypeError, "expected floating-point noise, got int64"),
                "noise dtype": ({"noise": X.double()}, TypeError, "expected noise of dtype float32, got float64"),
                "noise half": ({"noise": X.half()}, TypeError, "expected noise of dtype float32, got float16"),
                "noise of halves": (
                    {"logits": X.half(), "noise": X.bfloat16()}, TypeError,
                    "expected noise of dtype float16 or float32, got bfloat16",
                ),
                "noise sparse": (
                    {"noise": X.to_sparse()}, TypeError, "expected strided noise, got layout torch.sparse_coo",
                ),
                "noise device": ({"noise": X.to("meta")}, ValueError, "expected noise on cpu, got meta"),
                "noise shape": (
                    {"noise": torch.zeros(2)}, ValueError, "expected noise that broadcasts to (2, 3), got shape (2,)",
                ),
                "noise and key": (
                    {"noise": X, "key": KEY}, ValueError, "expected no key, seed or generator beside noise, got key",
                ),
                "noise and all": (
                    {"noise": X, "key": KEY, "seed": 1, "generator": torch.Generator()}, ValueError,
                    "expected no key, seed or generator beside noise, got key and seed and generator",
                ),
                "noise gradient": (
                    {"noise": torch.zeros(2, 3, requires_grad=True), "kind": "power_mixture"}, ValueError,
                    "power_mixture has no gradient to noise; pass noise.detach()",
                ),
                "index_offset negative": ({"index_offset": -1}, ValueError, f"{_range} -1"),
                "index_offset high": ({"index_offset": 2**64 - 5}, ValueError, f"{_range} {2**64 - 5}"),
                "index_offset float": (
                    {"index_offset": 0.0}, TypeError, "expected index_offset to be an int, got float",
                ),
            },
        ),
        ErrorInputs(
            smoothing_log_prob,
            {"zeta": X + 0.5, "logits": X, "beta": 2.0},
            {
                **_sharpness,
                "logits elsewhere": ({"logits": X.to("meta")}, ValueError, "expected logits on cpu, got meta"),
                "zeta dtype": ({"zeta": X.double()}, TypeError, "expected zeta of dtype float32, got float64"),
                "zeta half": ({"zeta": X.half()}, TypeError, "expected zeta of dtype float32, got float16"),
                "shapes": (
                    {"logits": torch.zeros(4, 3)}, ValueError,
                    "expected zeta and logits that broadcast, got shapes (2, 3) and (4, 3)",
                ),
            },
        ),
    ],
    raw_errors=[
        RawError("grad", lambda grad: grad[:1], "tensors of one shape"),
        RawError("noise", lambda noise: noise[:1], "noise of the shape of the logits, in the compute type"),
        RawError("noise", lambda noise: noise.double(), "noise of the shape of the logits, in the compute type"),
        RawError("beta", lambda _: X[:1], "beta of the shape of the logits, in the compute type"),
        RawError("beta", lambda _: torch.ones((), dtype=torch.half), "expected beta in the compute type"),
        RawError("kind", lambda _: "powers", "unknown kind"),
    ],
)  # fmt: skip
