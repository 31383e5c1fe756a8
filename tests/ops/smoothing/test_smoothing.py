"""What the smoothing transformations alone promise: exact derivatives, singular places, the distribution of every kind,
the stream by elements, and why two of the seed's formulas are not used."""

from __future__ import annotations

import itertools
import math
import warnings
from functools import cache
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from dvae_kernels import SMOOTHING_KINDS, _rng, _warnings, smoothing_log_prob, smoothing_transform
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels.ops.smoothing import reference
from kit.dtypes import each_dtype, each_half, skip_in_interpreter
from kit.oracle import noise_key
from kit.targets import Target
from ops.smoothing import oracle

INF, NAN = math.inf, math.nan
REFERENCE = Target("reference", "cpu")

kinds = pytest.mark.parametrize("kind", SMOOTHING_KINDS)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has warned already."""
    monkeypatch.setattr(_warnings, "_given", {("smoothing_transform", reason) for reason in ("beta <= 1", "beta > 8")})


def skip_large(target: Target) -> None:
    if target.interpreted:
        pytest.skip("too many samples for the interpreter, which is held to the same numbers by the oracle")


def transform(target: Target, kind: str, logits: Tensor, beta: float | Tensor, **options: Any) -> Tensor:
    if "noise" not in options:
        options["key"] = options.pop("key", noise_key(0)).to(target.device)
    options = {name: x.to(target.device) if isinstance(x, Tensor) else x for name, x in options.items()}
    beta = beta.to(target.device) if isinstance(beta, Tensor) else beta
    return smoothing_transform(logits.to(target.device), beta, kind, backend=target.backend, **options)


def with_gradients(
    target: Target, kind: str, logits: Tensor, beta: float | Tensor, noise: Tensor | None = None, **options: Any
) -> dict[str, Tensor]:
    """zeta and the gradients of its sum to the logits, to a tensor beta and to noise, on the CPU."""
    leaves = {"logits": logits.detach().to(target.device).requires_grad_()}
    if isinstance(beta, Tensor):
        beta = leaves["beta"] = beta.detach().to(target.device).requires_grad_()
    if noise is not None:
        options["noise"] = noise.detach().to(target.device)
        if SMOOTHING_KINDS[kind].noise_grad:
            leaves["noise"] = options["noise"].requires_grad_()
    zeta = transform(target, kind, leaves["logits"], beta, **options)
    grads = torch.autograd.grad(zeta, tuple(leaves.values()), torch.ones_like(zeta))
    return {"zeta": zeta.detach().cpu()} | {name: grad.cpu() for name, grad in zip(leaves, grads)}


def log_prob(target: Target, kind: str, zeta: Tensor, logits: Tensor, beta: float | Tensor) -> dict[str, Tensor]:
    """The log density and the gradients of its sum, on the CPU."""
    leaves = {"zeta": zeta, "logits": logits} | ({"beta": beta} if isinstance(beta, Tensor) else {})
    leaves = {name: x.detach().to(target.device).requires_grad_() for name, x in leaves.items()}
    sharpness: Any = leaves.get("beta", beta)
    result = smoothing_log_prob(leaves["zeta"], leaves["logits"], sharpness, kind, backend=target.backend)
    grads = torch.autograd.grad(result.sum(), tuple(leaves.values()))
    return {"log_prob": result.detach().cpu()} | {name: grad.cpu() for name, grad in zip(leaves, grads)}


def random_logits(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 2.0) -> Tensor:
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).to(dtype)


def middles(count: int) -> Tensor:
    """Noise for the midpoint rule."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


# Exact arithmetic

LOGITS = (-16.25, -3.0, -0.4, 0.0, 0.7, 5.0, 16.25)  # p within 1e-7 of 0 and of 1
BETAS = (0.05, 0.3, 1.0, 1.5, 4.0, 8.0, 30.0, 1000.0)
ROUNDINGS = 8
# Numbers of which the results are sums: their roundings are not of the result's size.
SIZES = {
    "zeta": lambda x, b: torch.ones_like(x),
    "logits": lambda x, b: torch.sigmoid(x) * torch.sigmoid(-x),
    "beta": lambda x, b: torch.ones_like(x),
    "noise": lambda x, b: torch.zeros_like(x),
}
LOG_PROB_SIZES = {
    "log_prob": lambda x, b: torch.ones_like(x),
    "zeta": lambda x, b: b.clamp(min=1),
    "logits": lambda x, b: torch.ones_like(x),
    "beta": lambda x, b: 1 / b,
}


def single(x: float) -> float:
    return torch.tensor(x, dtype=torch.float32).item()


@cache
def grid() -> tuple[Tensor, Tensor, Tensor]:
    """(logits, noise, beta) in numbers that float32 has: noise at both ends, at the least that the stream gives, and on
    either side of the threshold."""
    points = []
    for x in map(single, LOGITS):
        q = torch.sigmoid(torch.tensor(-x, dtype=torch.float64)).item()
        noise = (0, 2**-33, q, q * (1 + 2**-20), q * (1 - 2**-20), 0.02, 0.45, 0.8, 1 - 2**-24, 1)
        points += [(x, single(e), single(b)) for e in noise if e <= 1 for b in BETAS]
    logits, noise, beta = torch.tensor(points, dtype=torch.float64).T
    return logits, noise, beta


def in_float64(kind: str, logits: Tensor, noise: Tensor, beta: Tensor) -> dict[str, Tensor]:
    return with_gradients(REFERENCE, kind, logits, beta, noise)


def sensitivity(run: Any, *inputs: Tensor) -> dict[str, Tensor]:
    """How far every result moves when an input moves by its own size, in linear terms."""
    h = 2.0**-24
    base = run(*inputs)
    total = {name: torch.zeros_like(x) for name, x in base.items()}
    for i, sign in itertools.product(range(len(inputs)), (1, -1)):
        moved = list(inputs)
        moved[i] = inputs[i] * (1 + sign * h)
        for name, x in run(*moved).items():
            total[name] += ((x - base[name]).abs() / h / 2).nan_to_num(0, 0, 0)
    return total


@cache
def exact_transforms(kind: str) -> tuple[list[oracle.Exact], dict[str, Tensor]]:
    """In 50 digits, and the sensitivities, for which double precision will do."""
    logits, noise, beta = grid()
    with mpmath.workdps(50):
        exact = [oracle.transform(kind, *point) for point in zip(logits.tolist(), noise.tolist(), beta.tolist())]
    return exact, sensitivity(lambda x, e, b: in_float64(kind, x, e.clamp(max=1), b), logits, noise, beta)


def assert_exact(
    name: str,
    result: Tensor,
    exact: list[Any],
    sensitivities: Tensor,
    sizes: Tensor,
    roundings: Tensor,
    *inputs: Tensor,
) -> None:
    """Within some roundings of the result, of what it is a sum of, and of its inputs."""

    def at(i: int) -> str:
        return f"{name}: {result[i]} for {values[i]} at {[x[i].item() for x in inputs]}"

    known = torch.tensor([x is not None for x in exact])
    values = torch.tensor([float(x or 0) for x in exact], dtype=torch.float64)
    with mpmath.workdps(50):
        errors = [float(abs(mpmath.mpf(a) - b)) if b is not None else 0.0 for a, b in zip(result.tolist(), exact)]
    budget = roundings * torch.finfo(result.dtype).eps * (torch.maximum(values.abs(), sizes) + sensitivities)
    # powers below the smallest number over the clamp; and what numeric differentiation in 50 digits leaves of 0
    budget += max(1e11 * torch.finfo(result.dtype).tiny, 1e-40)
    ratio = torch.tensor(errors, dtype=torch.float64) / budget
    worst = int(ratio.argmax())
    assert result.isfinite().all(), at(int((~result.isfinite()).nonzero()[0]))
    assert ratio[worst] <= 1, f"{at(worst)}, {ratio[worst]:.3g} times the budget"
    assert known.sum() > 0.9 * len(exact)


@kinds
@dtypes
def test_values_and_gradients_from_exact_arithmetic(target: Target, kind: str, dtype: torch.dtype) -> None:
    """Everything is finite, and right to a few roundings except at jumps; with the documented clamps."""
    skip_in_interpreter(target, dtype)
    logits, noise, beta = grid()
    exact, sensitivities = exact_transforms(kind)
    results = with_gradients(target, kind, logits.to(dtype), beta.to(dtype), noise.to(dtype))
    roundings = torch.full_like(logits, ROUNDINGS)
    if SMOOTHING_KINDS[
        kind
    ].whole_line:  # eps - q is of the noise as given, not moved by 2^-64: 6e-13 of the smallest q here
        roundings[(noise == 0) | (noise == 1)] *= 1 + 1e-12 / torch.finfo(dtype).eps
    for name, values in zip(("zeta", "logits", "beta", "noise"), zip(*exact)):
        if name in results:
            sizes = SIZES[name](logits, beta)
            exact_values = list(values)
            assert_exact(name, results[name], exact_values, sensitivities[name], sizes, roundings, logits, noise, beta)
    if not SMOOTHING_KINDS[kind].whole_line:
        assert (results["zeta"] >= 0).all() and (results["zeta"] <= 1).all()
    below = noise <= torch.sigmoid(-logits) * (1 - 1e-7)
    if SMOOTHING_KINDS[kind].spike:
        assert not any(x[below].any() for x in results.values())


@kinds
def test_second_derivatives_are_finite(kind: str) -> None:
    """Of the reference, which takes them for every backend: one NaN would spoil the sum of a penalty."""
    logits, noise, beta = (x.requires_grad_() for x in grid())
    zeta = smoothing_transform(
        logits, beta, kind, noise=noise if SMOOTHING_KINDS[kind].noise_grad else noise.detach(), backend="reference"
    )
    inputs = [logits, beta, noise] if SMOOTHING_KINDS[kind].noise_grad else [logits, beta]
    assert_finite_again(zeta, inputs)
    inputs = [x.detach().requires_grad_() for x in points(kind)[0]]
    assert_finite_again(smoothing_log_prob(*inputs, kind, backend="reference"), inputs)


def assert_finite_again(value: Tensor, inputs: list[Tensor]) -> None:
    first = torch.autograd.grad(value.sum(), inputs, create_graph=True)
    for grad in first:
        again = torch.autograd.grad(grad.sum(), inputs, retain_graph=True, materialize_grads=True)
        for x in again:
            assert x.isfinite().all()


@kinds
def test_a_number_beta_is_as_a_tensor(target: Target, kind: str) -> None:
    logits, noise, beta = (x.float() for x in grid())
    results = with_gradients(target, kind, logits, beta, noise)
    for value in BETAS[:: 3 if target.interpreted else 1]:
        chosen = beta == single(value)
        for form in (single(value), torch.tensor(single(value))):
            own = with_gradients(target, kind, logits[chosen], form, noise[chosen])
            total = own.pop("beta", None)
            for name, x in own.items():
                torch.testing.assert_close(x, results[name][chosen], rtol=1e-5, atol=1e-7)
            if total is not None:
                part = results["beta"][chosen].double()
                assert abs(total - part.sum()) <= 1e-5 * part.abs().sum() + 1e-6


@cache
def points(kind: str) -> tuple[tuple[Tensor, Tensor, Tensor], list[tuple[Any, ...]], dict[str, Tensor]]:
    """(zeta, logits, beta) in numbers that float32 has, their log densities and gradients in 50 digits, and the
    sensitivities."""
    zetas = [1e-30, 1e-6, 0.003, 0.3, 0.52, 0.77, 0.9999, 1 - 2**-24]
    if SMOOTHING_KINDS[kind].spike or SMOOTHING_KINDS[kind].whole_line:
        zetas.append(0.0)
    if SMOOTHING_KINDS[kind].whole_line:
        zetas += [-1.5, 1.0, 2.5]
    grid = itertools.product(zetas, (-16.25, -1.5, 0.0, 4.0, 16.25), BETAS)
    zeta, logits, beta = inputs = torch.tensor([[*map(single, p)] for p in grid], dtype=torch.float64).T
    with mpmath.workdps(50):
        exact = [oracle.log_prob(kind, *point) for point in zip(zeta.tolist(), logits.tolist(), beta.tolist())]

    def run(zeta: Tensor, logits: Tensor, beta: Tensor) -> dict[str, Tensor]:
        zeta = zeta if SMOOTHING_KINDS[kind].whole_line else zeta.clamp(max=1 - 2**-53)
        return log_prob(REFERENCE, kind, zeta, logits, beta)

    return tuple(inputs), exact, sensitivity(run, *inputs)  # type: ignore[return-value]


@kinds
@dtypes
def test_log_prob_and_its_gradients_from_exact_arithmetic(target: Target, kind: str, dtype: torch.dtype) -> None:
    skip_in_interpreter(target, dtype)
    (zeta, logits, beta), exact, sensitivities = points(kind)
    results = log_prob(target, kind, zeta.to(dtype), logits.to(dtype), beta.to(dtype))
    roundings = torch.full_like(logits, ROUNDINGS)
    for name, values in zip(LOG_PROB_SIZES, zip(*exact)):
        sizes = LOG_PROB_SIZES[name](logits, beta)
        assert_exact(name, results[name], list(values), sensitivities[name], sizes, roundings, zeta, logits, beta)


@pytest.mark.parametrize("kind", [kind for kind in SMOOTHING_KINDS if SMOOTHING_KINDS[kind].noise_grad])
def test_the_density_is_the_inverse_slope(backend: Target, kind: str) -> None:
    """Of zeta as a function of the noise, where it is not flat: the density and the transform know nothing of each
    other."""
    skip_in_interpreter(backend, torch.float64)
    noise = middles(100)
    for logit, beta in ((0.0, 2.0), (1.3, 0.6), (-0.8, 5.0)):
        logits = torch.full_like(noise, logit)
        result = with_gradients(backend, kind, logits, beta, noise)
        density = log_prob(backend, kind, result["zeta"], logits, beta)["log_prob"]
        moving = result["zeta"] > 0 if SMOOTHING_KINDS[kind].spike else noise > 0
        torch.testing.assert_close(density[moving], -result["noise"][moving].log(), rtol=1e-7, atol=1e-7)
        if SMOOTHING_KINDS[kind].spike:
            torch.testing.assert_close(density[~moving].exp(), torch.sigmoid(-logits[~moving]))


# Derivatives by torch


@kinds
@pytest.mark.parametrize("form", ["stream", "scalar", "full"])
def test_first_and_second_derivatives(backend: Target, kind: str, form: str) -> None:
    """Numerically; where the gradient is implicit and noise has none, the second derivatives alone."""
    skip_in_interpreter(backend, torch.float64)
    generator = torch.Generator().manual_seed(8)
    leaves = {"logits": torch.randn(2, 3, generator=generator, dtype=torch.float64)}
    options: dict[str, Any] = {"key": noise_key(4), "index_offset": 5}
    if form != "stream":
        noise = 0.05 + 0.9 * torch.rand(2, 3, generator=generator, dtype=torch.float64)
        options = {"noise": noise}
        leaves["beta"] = 1.5 + 4 * torch.rand(() if form == "scalar" else (3,), generator=generator).double()
        if SMOOTHING_KINDS[kind].noise_grad:
            leaves["noise"] = noise
    leaves = {name: x.to(backend.device).requires_grad_() for name, x in leaves.items()}

    def forward(*values: Tensor) -> Tensor:
        own = dict(zip(leaves, values))
        return transform(backend, kind, own.pop("logits"), own.pop("beta", 2.5), **{**options, **own})

    def gradient(cotangent: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(*values), values, cotangent, create_graph=True)

    if SMOOTHING_KINDS[kind].noise_grad:
        assert gradcheck(forward, tuple(leaves.values()))
    cotangent = torch.randn(2, 3, generator=generator, dtype=torch.float64).to(backend.device).requires_grad_()
    assert gradcheck(gradient, (cotangent, *leaves.values()))


@kinds
def test_first_and_second_derivatives_of_log_prob(backend: Target, kind: str) -> None:
    skip_in_interpreter(backend, torch.float64)
    generator = torch.Generator().manual_seed(8)
    zeta, logits, beta = (torch.rand(shape, generator=generator).double() for shape in ((4, 3), (3,), (3,)))
    leaves = tuple(x.to(backend.device).requires_grad_() for x in (0.1 + 0.8 * zeta, 3 * logits - 1.5, 1.5 + 3 * beta))

    def forward(zeta: Tensor, logits: Tensor, beta: Tensor) -> Tensor:
        return smoothing_log_prob(zeta, logits, beta, kind, backend=backend.backend)

    def gradient(cotangent: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(*values), values, cotangent, create_graph=True)

    assert gradcheck(forward, leaves)
    cotangent = torch.randn(4, 3, generator=generator, dtype=torch.float64).to(backend.device).requires_grad_()
    assert gradcheck(gradient, (cotangent, *leaves))


@kinds
def test_gradients_of_expectations(backend: Target, kind: str) -> None:
    """The mean of h'(zeta) dzeta is the derivative of E[h(zeta)]: all that an estimator has to be, and what
    implicit gradients are held to."""
    skip_in_interpreter(backend, torch.float64)

    def moment(h: Any, logit: float, beta: float) -> float:
        q = 1 / (1 + math.exp(logit))
        ends = (-20.0, 0.0, 1.0, 21.0) if SMOOTHING_KINDS[kind].whole_line else (0.0, q, 1.0)
        return sum(
            integrate(lambda x: h(x) * density(kind, x, logit, beta), *side) for side in itertools.pairwise(ends)
        )

    def estimate(slope: Any, name: str, logit: float, beta: float) -> float:
        def one(noise: Tensor) -> Tensor:
            result = with_gradients(backend, kind, torch.full_like(noise, logit), torch.full_like(noise, beta), noise)
            return slope(result["zeta"]) * result[name]

        q = 1 / (1 + math.exp(logit))
        return integrate(one, 0.0, q) + integrate(one, q, 1.0)

    step = 1e-3
    for h, slope in ((torch.square, lambda x: 2 * x), (lambda x: torch.sin(3 * x), lambda x: 3 * torch.cos(3 * x))):
        for logit, beta in ((0.3, 3.0), (-1.2, 1.7)):
            for name, x, b in (("logits", step, 0.0), ("beta", 0.0, step)):
                exact = (moment(h, logit + x, beta + b) - moment(h, logit - x, beta - b)) / (2 * step)
                # what is lost below the clamp of a singular slope
                lost = 2.0 ** (-24 / beta) if SMOOTHING_KINDS[kind].unbounded_slope and name == "logits" else 0
                assert abs(estimate(slope, name, logit, beta) - exact) < 1e-4 + lost


def test_the_implicit_gradient_is_not_that_of_the_sampler(backend: Target) -> None:
    """Of power_mixture: equal in expectation, not at one noise."""
    skip_in_interpreter(backend, torch.float64)
    noise, logits = torch.tensor([0.2, 0.7]).double(), torch.zeros(2).double()
    result = with_gradients(backend, "power_mixture", logits, 3.0, noise)
    h = 1e-6
    moved = [transform(backend, "power_mixture", logits + s, 3.0, noise=noise).cpu() for s in (h, -h)]
    assert ((result["logits"] - (moved[0] - moved[1]) / (2 * h)).abs() > 0.01).all()
    # -F_l / F_zeta of F = q zeta^(1/3) + p (1 - (1 - zeta)^(1/3)) at p = 1/2
    zeta = result["zeta"]
    low, high = zeta ** (1 / 3), 1 - (1 - zeta) ** (1 / 3)
    density = (zeta ** (-2 / 3) + (1 - zeta) ** (-2 / 3)) / 6
    torch.testing.assert_close(result["logits"], 0.25 * (low - high) / density)


def density(kind: str, zeta: Tensor, logit: float, beta: float) -> Tensor:
    return log_prob(REFERENCE, kind, zeta, torch.full_like(zeta, logit), beta)["log_prob"].exp()


def integrate(function: Any, low: float, high: float) -> float:
    """By the tanh-sinh rule, which allows for singular ends."""
    t = torch.linspace(-3.2, 3.2, 801, dtype=torch.float64)
    inner = math.pi / 2 * torch.sinh(t)
    x = low + (high - low) * torch.sigmoid(2 * inner)
    weight = math.pi / 2 * torch.cosh(t) / torch.cosh(inner).square() / 2 * (t[1] - t[0])
    inside = (x > low) & (x < high)
    return (function(x[inside]) * weight[inside]).sum().item() * (high - low)


# The distribution


@kinds
@pytest.mark.parametrize("logit, beta", [(0.3, 2.0), (-1.4, 0.7), (0.0, 3.0), (2.0, 1.0)], ids=str)
def test_log_prob_integrates_to_one(kind: str, logit: float, beta: float) -> None:
    """With the mass at zero, which is 1 - p."""
    q = 1 / (1 + math.exp(logit))
    ends = (-40.0 / beta, 0.0, 1.0, 1 + 40.0 / beta) if SMOOTHING_KINDS[kind].whole_line else (0.0, q, 1.0)
    total = sum(integrate(lambda x: density(kind, x, logit, beta), a, b) for a, b in itertools.pairwise(ends))
    mass = density(kind, torch.zeros(1).double(), logit, beta).item() if SMOOTHING_KINDS[kind].spike else 0
    assert abs(total + mass - 1) < 1e-4
    if SMOOTHING_KINDS[kind].spike:
        assert abs(mass - q) < 1e-12 and abs(total - 1 + q) < 1e-4


@kinds
def test_samples_follow_the_density(target: Target, kind: str) -> None:
    """Mass at zero, histogram and mean, of float32 samples of the stream, against quadrature."""
    skip_large(target)
    scipy_stats = pytest.importorskip("scipy.stats")
    count, logit, beta = 40_000, 0.6, 2.5
    zeta = transform(target, kind, torch.full((count,), logit), beta).cpu().double()

    def weight(x: Tensor) -> Tensor:
        return density(kind, x, logit, beta)

    q = 1 / (1 + math.exp(logit))
    inner = sorted({i / 16 for i in range(17)} | {q})
    edges = [-20.0, -1.0, -0.5, *inner, 1.5, 2.0, 21.0] if SMOOTHING_KINDS[kind].whole_line else inner
    shares = [integrate(weight, a, b) for a, b in itertools.pairwise(edges)]
    means = [integrate(lambda x: x * weight(x), a, b) for a, b in itertools.pairwise(edges)]
    counts = torch.histogram(
        zeta[zeta != 0] if SMOOTHING_KINDS[kind].spike else zeta, torch.tensor(edges).double()
    ).hist.tolist()
    if SMOOTHING_KINDS[kind].spike:
        shares, counts = [q, *shares], [(zeta == 0).sum().item(), *counts]
        assert scipy_stats.binomtest(int(counts[0]), count, q).pvalue > 1e-6
    assert sum(counts) == count and abs(sum(shares) - 1) < 1e-4
    expected = [count * share / sum(shares) for share in shares]
    assert scipy_stats.chisquare(counts, expected).pvalue > 1e-6
    assert abs(zeta.mean() - sum(means)) < 5 * zeta.std() / math.sqrt(count) + 1e-5
    # and a mean that no density is needed for
    by_noise = transform(REFERENCE, kind, torch.full((100_000,), logit).double(), beta, noise=middles(100_000))
    assert abs(by_noise.mean() - sum(means)) < 1e-4


@pytest.mark.parametrize("kind, moment", [
    ("spike_exponential", 5.8), ("spike_power", 0.47), ("spike_rational", 0.33), ("power", 0.18),
])  # fmt: skip
def test_the_second_moment_of_the_gradient(target: Target, kind: str, moment: float) -> None:
    """At p = 1/2 and beta = 8, as the mathematics of the package gives them: by quadrature, and from samples."""
    skip_large(target)
    noise = middles(1 << 18).float()
    logits = torch.zeros_like(noise)
    for options, tolerance in (({"noise": noise}, 0.03), ({"key": noise_key(1)}, 0.15)):
        slopes = with_gradients(target, kind, logits, 8.0, **options)["logits"]  # type: ignore[arg-type]
        assert abs(slopes.double().square().mean().item() / moment - 1) < tolerance


# The conditions of the seed, section 2.3


def printed_rational(noise: Tensor, p: float, beta: float) -> Tensor:
    """f2'' as the seed prints it, above the threshold."""
    return 1 - (1 - p) / (beta * (noise - p))


def printed_root(noise: Tensor, p: float, beta: float) -> Tensor:
    """f3' as the seed prints it, above the threshold: a root of a negative number, which is real for odd beta."""
    radicand = -(noise + p - 1) / p
    root = radicand.sign() * radicand.abs() ** (1 / beta) if beta % 2 == 1 else radicand ** (1 / beta)
    return 1 + p * (root - 1)


def test_why_the_printed_rational_is_not_used() -> None:
    """It is no increasing function from 0 to 1 (condition 1), and has a pole where p > 1/2."""
    p, beta = 0.8, 5.0
    noise = torch.linspace(1 - p, 1, 1001, dtype=torch.float64)
    f = printed_rational(noise, p, beta)
    assert abs(f[-1] - (1 - 1 / beta)) < 1e-12, "f(1) is 1 - 1 / beta"
    assert abs(f[0] - (1 - (1 - p) / (beta * (1 - 2 * p)))) < 1e-12 and f[0] > 1, "f(1 - p) is not 0"
    left, right = (printed_rational(torch.tensor(p + s, dtype=torch.float64), p, beta) for s in (-1e-9, 1e-9))
    assert left > 1e7 and right < -1e7, "it falls from +inf to -inf at noise = p, inside the support"
    # what leads the expansion for large beta is ours
    u = (noise[1:] + p - 1) / p
    ours = transform(REFERENCE, "spike_rational", torch.full_like(u, math.log(p / (1 - p))), beta,
                     noise=noise[1:])  # fmt: skip
    torch.testing.assert_close(ours, beta * u / (1 - u + beta * u))
    for scale in (1e3, 1e6):  # 1 - zeta is (1 - u) / (beta u) (1 + O(1 / beta)), and for p = 1/2 so is the printed one
        half = torch.tensor([0.8]).double()
        ours = transform(REFERENCE, "spike_rational", torch.zeros(1).double(), scale, noise=half)
        leading = (1 - half) / (half - 0.5) / scale
        torch.testing.assert_close(1 - ours, leading, rtol=2 / scale, atol=0)


def test_why_the_printed_root_is_not_used() -> None:
    """No number for most beta; for odd ones it falls from 1 - p to 1 - 2p (condition 1), which is also its limit
    (condition 2)."""
    p = 0.6
    noise = torch.linspace(1 - p, 1, 101, dtype=torch.float64)[1:]
    for beta in (2.0, 2.5, 4.0):
        assert printed_root(noise, p, beta).isnan().all()
    f = printed_root(noise, p, 3.0)
    assert (f.diff() < 0).all() and abs(f[-1] - (1 - 2 * p)) < 1e-12
    limit = printed_root(noise, p, 1e6 + 1)
    assert ((limit - (1 - 2 * p)).abs() < 1e-4).all()


@kinds
def test_which_conditions_hold(kind: str) -> None:
    """1: increasing from 0 to 1. 2: converges to the step at 1 - p. 3: a derivative that is not 0."""
    noise = torch.linspace(0, 1, 1001, dtype=torch.float64)
    for logit, beta in ((0.7, 4.0), (-1.0, 2.0), (0.0, 0.5)):
        logits = torch.full_like(noise, logit)
        threshold = torch.sigmoid(-logits)
        result = with_gradients(REFERENCE, kind, logits, beta, noise)
        zeta = result["zeta"]
        flat = noise <= threshold if SMOOTHING_KINDS[kind].spike else torch.zeros_like(noise, dtype=torch.bool)
        rises = zeta.diff()
        if not SMOOTHING_KINDS[
            kind
        ].noise_grad:  # a draw of the bit, then one of zeta: it starts again at the threshold
            assert (rises < 0).sum() == 1 and rises.argmin() == (noise <= threshold).sum() - 1
            rises = rises[rises > 0]
        assert (rises >= 0).all() and (not SMOOTHING_KINDS[kind].noise_grad or (rises[~flat[1:]] > 0).all())
        if SMOOTHING_KINDS[kind].whole_line:
            assert zeta[0] < -5 and zeta[-1] > 5, "the whole line"
        else:
            assert zeta[0] == 0 and abs(zeta[-1] - 1) < 1e-12
        if SMOOTHING_KINDS[kind].noise_grad:
            inside = (noise > 0) & (noise < 1)
            assert (result["noise"][inside & ~flat] > 0).all() and not result["noise"][flat].any()
        away = (noise - threshold).abs() > 0.02
        step = (noise > threshold).double()
        sharp = transform(REFERENCE, kind, logits, 1e4, noise=noise)
        torch.testing.assert_close(sharp[away], step[away], rtol=0, atol=0.01)


# Singular places and special values


@pytest.mark.parametrize("kind", ["spike_root", "root"])
def test_slopes_are_clamped_at_the_threshold(target: Target, kind: str) -> None:
    """At 2^-24 of the side's width: the slope is the same at every noise nearer than that."""
    near = torch.tensor([0.0, 2.0**-30, 2.0**-26, 2.0**-24, 2.0**-20])
    noise = torch.stack([near, -near]).flatten().double() / 2 + 0.5  # u and v, at p = 1/2
    if target.backend != "reference":
        skip_in_interpreter(target, torch.float64)
    result = with_gradients(target, kind, torch.zeros(10).double(), 8.0, noise)
    steepest = 2.0 ** (-24 / 8) / (8 * 2.0**-24)
    slopes = result["noise"].reshape(2, 5)
    for row, sides in zip(slopes, ((1,), ()) if kind == "spike_root" else ((1,), (1,))):
        for side in sides:
            unit = 2.0 if kind == "spike_root" else 1.0
            torch.testing.assert_close(row[1:4], torch.full((3,), side * unit * steepest).double(), rtol=1e-6, atol=0)
            assert row[4] < row[3]
    # the mean gradient to the logit, 2/9 or 7/36 without the clamp, by points that are dense at the threshold
    place = middles(20000)
    upper = with_gradients(target, kind, torch.zeros_like(place), 8.0, 0.5 + place**8 / 2)["logits"]
    mean = (upper * 8 * place**7).mean() * (0.5 if kind == "spike_root" else 1)
    assert abs(mean - (0.19488 if kind == "spike_root" else 0.16710)) < 2e-4


@kinds
@each_dtype
def test_infinite_logits_are_certain_and_nan_stays(target: Target, kind: str, dtype: torch.dtype) -> None:
    skip_in_interpreter(target, dtype)
    if target.interpreted and kind not in ("power", "spike_exponential", "exponential_mixture"):
        pytest.skip("takes long there")
    logits = random_logits(70, dtype=dtype)
    noise = (0.01 + 0.98 * torch.rand(70, generator=torch.Generator().manual_seed(1))).to(dtype)
    beta = torch.full((70,), 3.0, dtype=compute_dtype(dtype))
    whole = with_gradients(target, kind, logits, beta, noise)
    special = logits.clone()
    special[::7], special[1::7] = -INF, INF
    result = with_gradients(target, kind, special, beta, noise)
    # p = 0 and p = 1 are the limits of small and of large odds
    limit = special.double().clamp(-600, 600)
    exact = with_gradients(REFERENCE, kind, limit, beta.double(), noise.double())
    tolerance = {"rtol": 0.0, "atol": 8 * torch.finfo(dtype).eps}
    certain = (torch.arange(70) % 7) < 2
    torch.testing.assert_close(result["zeta"][certain].double(), exact["zeta"][certain], **tolerance)
    assert (result["logits"][certain].double().abs() < 1e-30).all()
    assert all(x.isfinite().all() for x in result.values())
    if SMOOTHING_KINDS[kind].spike:
        assert not result["zeta"][::7].any()
    for name, x in result.items():
        assert torch.equal(x[~certain], whole[name][~certain]), name
    special[5] = NAN
    for name, x in with_gradients(target, kind, special, beta, noise).items():
        assert x.isnan().nonzero().flatten().tolist() == [5], name


@kinds
def test_what_is_no_noise_or_no_beta_gives_nan(target: Target, kind: str) -> None:
    if target.interpreted and kind not in ("power", "spike_exponential", "exponential_mixture"):
        pytest.skip("takes long there")
    logits, noise, beta = torch.full((11,), -0.3), torch.full((11,), 0.1), torch.full((11,), 3.0)
    noise[5:] = 0.9  # both sides of the threshold, where the spike kinds are flat too
    bad_noise, bad_beta = noise.clone(), beta.clone()
    bad_noise[[1, 2, 6, 7]] = torch.tensor([NAN, -1e-3, 1.001, -INF])
    bad_beta[[0, 1, 2, 5, 6, 7]] = torch.tensor([0.0, -1.0, NAN, INF, -INF, NAN])
    good = with_gradients(target, kind, logits, beta, noise)
    assert all(x.isfinite().all() for x in good.values())
    for values, rows in (((beta, bad_noise), [1, 2, 6, 7]), ((bad_beta, noise), [0, 1, 2, 5, 6, 7])):
        for name, x in with_gradients(target, kind, logits, *values).items():
            assert x.isnan().nonzero().flatten().tolist() == rows, name
            kept = ~x.isnan()
            assert torch.equal(x[kept], good[name][kept])
    for value in (0.0, -1.0, NAN, INF):
        for x in with_gradients(target, kind, logits, torch.tensor(value), noise).values():
            assert x.isnan().all()


@kinds
def test_log_prob_of_special_values(target: Target, kind: str) -> None:
    if target.interpreted and kind not in ("power", "spike_exponential", "logistic_mixture"):
        pytest.skip("takes long there")
    zeta = torch.tensor([0.4, 0.4, NAN, 0.4, -0.5, 1.5, INF, -INF])
    logits = torch.tensor([NAN, 0.5, 0.5, 1.0, 0.5, 0.5, 0.5, 0.5])
    beta = torch.full((8,), 2.5)
    result = log_prob(target, kind, zeta, logits, beta)
    for name, x in result.items():
        assert x.isnan().tolist() == [i in (0, 2) for i in range(8)], name
    outside = [6, 7] if SMOOTHING_KINDS[kind].whole_line else [4, 5, 6, 7]
    assert (result["log_prob"][outside] == -INF).all() and not any(result[x][outside].any() for x in ("zeta", "logits"))
    assert not result["beta"][outside].any()
    for value in (0.0, -1.0, NAN, INF):
        for x in log_prob(target, kind, torch.tensor([0.0, 0.4, 1.0]), torch.zeros(3), torch.tensor(value)).values():
            assert x.isnan().all()


@kinds
@dtypes
def test_log_prob_takes_zeta_as_clamped(target: Target, kind: str, dtype: torch.dtype) -> None:
    skip_in_interpreter(target, dtype)
    info = torch.finfo(dtype)
    bounds, ends = (torch.tensor(x, dtype=dtype) for x in ([info.tiny, 1 - info.eps / 2], [0.0, 1.0]))
    logits, beta = torch.tensor([0.4, -0.3], dtype=dtype), torch.full((2,), 2.5, dtype=dtype)
    inside, at_ends = log_prob(target, kind, bounds, logits, beta), log_prob(target, kind, ends, logits, beta)
    assert inside["log_prob"].isfinite().all()
    if SMOOTHING_KINDS[kind].spike:  # the mass at zero
        torch.testing.assert_close(at_ends["log_prob"][0], torch.nn.functional.logsigmoid(-logits[0]))
        torch.testing.assert_close(at_ends["logits"][0], -torch.sigmoid(logits[0]))
        assert at_ends["beta"][0] == 0
    if SMOOTHING_KINDS[kind].whole_line:  # no end: nothing is clamped
        assert at_ends["zeta"].all()
        return
    assert not at_ends["zeta"].any()
    same = slice(1, 2) if SMOOTHING_KINDS[kind].spike else slice(0, 2)
    for name in ("log_prob", "logits", "beta"):
        assert torch.equal(at_ends[name][same], inside[name][same])


# The noise


@kinds
def test_the_stream_is_the_noise_of_its_integers(target: Target, kind: str) -> None:
    """(k + 1/2) / 2^32, exact in float64."""
    skip_in_interpreter(target, torch.float64)
    logits, key = random_logits(3, 50, dtype=torch.float64), torch.tensor([5, 9])
    beta = torch.full((3, 50), 3.5, dtype=torch.float64)
    noise = (_rng.element_bits(key, 150, index_offset=7).double() + 0.5) / 2**32
    ours = with_gradients(target, kind, logits, beta, key=key, index_offset=7)
    theirs = with_gradients(target, kind, logits, beta, noise.reshape(3, 50))
    for name, x in ours.items():
        torch.testing.assert_close(x, theirs[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("index, bits", [(59535980, 147), (42556706, 256), (44126575, 2**32 - 52)])
def test_both_tails_of_the_noise_reach_the_sample(target: Target, index: int, bits: int) -> None:
    """Noise nearer to its ends than uniforms of 24 bits come."""
    key, logits = torch.tensor([0, 0]), torch.zeros(1)
    assert _rng.element_bits(key, 1, index_offset=index).item() == bits
    exact = ((bits + 0.5) / 2**32 / 0.5) ** 2 / 2 if bits < 2**31 else ((2**32 - bits - 0.5) / 2**32 / 0.5) ** 2 / 2
    zeta = transform(target, "power", logits, 2.0, key=key, index_offset=index)
    slope = with_gradients(target, "power", logits, 2.0, key=key, index_offset=index)["logits"]
    assert abs(slope.item() / (exact / 2) - 1) < 1e-5
    assert abs((zeta.item() if bits < 2**31 else 1 - zeta.item()) - exact) < (1e-15 if bits < 2**31 else 1e-7)


@pytest.mark.parametrize("start", [0, 11, 2**34 - 77, 2**64 - 230], ids=str)
def test_shards_are_slices_of_the_whole(target: Target, start: int) -> None:
    logits = random_logits(230)
    whole = transform(target, "power", logits, 3.0, index_offset=start).cpu()
    for a, b in itertools.pairwise([0, 1, 5, 34, 110, 230]):
        shard = transform(target, "power", logits[a:b], 3.0, index_offset=start + a).cpu()
        torch.testing.assert_close(shard, whole[a:b], rtol=1e-6, atol=1e-7)
    assert not torch.allclose(whole, transform(target, "power", logits, 3.0, index_offset=start ^ 1 << 33).cpu())


def test_elements_are_numbered_in_logical_order(target: Target) -> None:
    logits = random_logits(2, 3, 4, 5)
    flat = transform(target, "power", logits.flatten(), 3.0).cpu()
    for layout in (torch.contiguous_format, torch.channels_last):
        zeta = transform(target, "power", logits.to(memory_format=layout), 3.0).cpu()
        torch.testing.assert_close(zeta.flatten(), flat, rtol=1e-6, atol=1e-7)
        assert zeta.is_contiguous(memory_format=layout) or target.backend == "reference"
    columns = transform(target, "power", logits.movedim(0, -1), 3.0).cpu()
    expected = transform(target, "power", logits.movedim(0, -1).contiguous(), 3.0).cpu()
    torch.testing.assert_close(columns, expected, rtol=1e-6, atol=1e-7)


def test_the_key_is_the_identity_of_the_noise(target: Target) -> None:
    logits = random_logits(280)

    def draw(seed: int, offset: int) -> Tensor:
        return transform(target, "power", logits, 2.0, key=torch.tensor([seed, offset]))

    zeta = draw(5, 1)
    assert torch.equal(zeta, draw(5, 1))
    assert torch.equal(zeta, draw(5, 1 + 2**32)), "the offset counts modulo 2^32"
    for other in (draw(6, 1), draw(5, 2), draw(5 + 2**32, 1), draw(-5, 1)):
        assert not torch.equal(zeta, other)
    seeded = smoothing_transform(logits.to(target.device), 2.0, "power", seed=-5, backend=target.backend)
    assert torch.equal(seeded, draw(-5, 0))


@each_half
def test_autocast_gives_float32_from_half_logits(target: Target, dtype: torch.dtype) -> None:
    skip_in_interpreter(target, dtype)
    logits = random_logits(200, dtype=dtype).to(target.device).requires_grad_()
    with torch.autocast(target.device, dtype=dtype):
        zeta = transform(target, "power", logits, 3.0)
    assert zeta.dtype == torch.float32
    torch.testing.assert_close(zeta, transform(target, "power", logits.float(), 3.0))
    zeta.square().sum().backward()
    assert logits.grad is not None and logits.grad.dtype == dtype


# Betas, warnings, and the raw ops


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1), (4,), (3, 1), (2, 3, 4)], ids=str)
def test_beta_broadcasts_and_its_gradient_sums(target: Target, shape: tuple[int, ...]) -> None:
    logits = random_logits(2, 3, 4)
    beta = 2 + torch.rand(shape, generator=torch.Generator().manual_seed(1))
    full = beta.reshape(()) if beta.numel() == 1 else beta
    whole = with_gradients(target, "power", logits, full.expand(2, 3, 4).clone())
    result = with_gradients(target, "power", logits, beta)
    torch.testing.assert_close(result["zeta"], whole["zeta"])
    torch.testing.assert_close(result["logits"], whole["logits"])
    assert result["beta"].shape == beta.shape
    torch.testing.assert_close(result["beta"].reshape(full.shape), whole["beta"].sum_to_size(full.shape))


def test_warnings_come_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_warnings, "_given", set())
    logits = torch.zeros(3, requires_grad=True)

    def run(kind: str, beta: float | Tensor, logits: Tensor = logits) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            smoothing_transform(logits, beta, kind, backend="reference")
        assert all(w.category is UserWarning and w.filename == __file__ for w in caught)
        return [str(w.message) for w in caught]

    assert not run("power", 0.5, logits.detach())
    assert not run("power", torch.full((3,), 0.5)) and not run("power", 1.01) and not run("spike_power", 0.5)
    assert run("root", torch.tensor(1.0)) == [
        "smoothing_transform: the gradient of root to the logits is zero at beta = 1 and changes sign below"
    ]
    assert not any(run(kind, beta) for kind in SMOOTHING_KINDS for beta in (1.0, torch.tensor(0.5)))
    assert not any(run(kind, 0.7) for kind in SMOOTHING_KINDS if SMOOTHING_KINDS[kind].vanishes_at_one)
    assert not run("root", 8.0) and not run("power", 30.0)
    assert run("spike_root", 16.0) == [
        "smoothing_transform: the gradient of spike_root to the logits has no second moment; at this beta 35% of it "
        "lies below the clamp at 2^-24 and is lost"
    ]
    assert not run("root", 9.0)


def test_noise_without_a_gradient(target: Target) -> None:
    """power_mixture has none, and says so before it would be wrong."""
    logits, noise = random_logits(5).to(target.device), torch.rand(5).to(target.device)
    smoothing_transform(logits, 2.0, "power_mixture", noise=noise, backend=target.backend)
    noise.requires_grad_()
    with pytest.raises(ValueError, match="power_mixture has no gradient to noise"):
        smoothing_transform(logits, 2.0, "power_mixture", noise=noise, backend=target.backend)
    with torch.no_grad():
        smoothing_transform(logits, 2.0, "power_mixture", noise=noise, backend=target.backend)
    bwd = raw(target, "smoothing_bwd")
    with pytest.raises((ValueError, RuntimeError), match=r"no gradient to (its )?noise"):
        bwd(logits, logits, noise.detach(), None, None, 2.0, "power_mixture", 0, False, True)


def raw(target: Target, name: str) -> Any:
    if target.backend == "reference":
        return getattr(reference, name)
    return getattr(getattr(torch.ops.dvae_kernels, name), target.backend)


def test_raw_ops_check_their_kind_and_their_noise(backend: Target) -> None:
    x, key = torch.zeros(5, device=backend.device), noise_key(0, backend.device)
    refused = pytest.raises((ValueError, RuntimeError), match="unknown kind")
    with refused:
        raw(backend, "smoothing_fwd")(x, None, key, None, 2.0, "spike", 0, torch.float32)
    with refused:
        raw(backend, "smoothing_bwd")(x, x, None, key, None, 2.0, "", 0, False, False)
    with refused:
        raw(backend, "smoothing_log_prob_fwd")(x, x, None, 2.0, "powers")
    with refused:
        raw(backend, "smoothing_log_prob_bwd")(x, x, x, None, 2.0, "Power", True)
    for noise, key_or_none in ((None, None), (x, key)):
        with pytest.raises((ValueError, RuntimeError), match="either noise or a key"):
            raw(backend, "smoothing_fwd")(x, noise, key_or_none, None, 2.0, "power", 0, torch.float32)
