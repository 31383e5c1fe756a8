"""What vector_quantize promises beyond the contract."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from dvae_kernels import _warnings, nearest_code, vector_quantize
from dvae_kernels.ops.nearest_code import METRICS
from dvae_kernels.ops.vector_quantize import composition
from kit.targets import Target

FP64 = torch.float64
GRADIENTS = ("straight_through", "rotation")


def random(*shape: int, seed: int = 0, dtype: torch.dtype = FP64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FP64).to(dtype)


def case_on(target: Target, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """(x [6, 5], codebook [4, 5]), leaves."""
    x, codebook = random(6, 5, dtype=dtype), random(4, 5, seed=1, dtype=dtype)
    return x.to(target.device).requires_grad_(), codebook.to(target.device).requires_grad_()


def rotated(x: Tensor, c: Tensor) -> Tensor:
    """math.md 5, in its own words: everything detached but the x that is turned."""
    unit = [v.detach() / v.detach().norm(dim=-1, keepdim=True) for v in (x, c)]
    w = unit[0] + unit[1]
    w = w / w.norm(dim=-1, keepdim=True)
    stretch = c.detach().norm(dim=-1, keepdim=True) / x.detach().norm(dim=-1, keepdim=True)
    dot = lambda a: (a * x).sum(-1, keepdim=True)  # noqa: E731
    return stretch * (x - 2 * w * dot(w) + 2 * unit[1] * dot(unit[0]))


def plain(x: Tensor, codebook: Tensor, commitment: float, learning: float, gradient: str) -> tuple[Tensor, Tensor]:
    """A VQ-VAE's quantizer as it is usually written: (quantized, loss)."""
    c = F.embedding(torch.cdist(x.detach(), codebook.detach()).argmin(-1), codebook)
    loss = commitment * F.mse_loss(x, c.detach()) + learning * F.mse_loss(c, x.detach())
    return rotated(x, c) if gradient == "rotation" else x + (c - x).detach(), loss


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_it_is_the_plain_quantizer(backend: Target, gradient: str) -> None:
    """Values, gradients, and the gradients of gradients, which pass through the losses and the cotangents."""
    results = []
    for ours in (True, False):
        x, codebook = case_on(backend, FP64)
        weight = random(6, 5, seed=2).to(backend.device).requires_grad_()
        if ours:
            quantized, _, loss = vector_quantize(
                x, codebook, codebook_weight=0.7, gradient=gradient, backend=backend.backend
            )
        else:
            quantized, loss = plain(x, codebook, 0.25, 0.7, gradient)
        leaves = (x, codebook, weight)
        value = (quantized * weight).sum() + 3 * loss.square()
        first = torch.autograd.grad(value, leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        results.append([quantized, loss, *first, *second])
    for actual, expected in zip(*results):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_losses_slopes_are_numerical_ones(kernel: Target, reduction: str) -> None:
    """Of each loss to what it does not hold constant, to second order."""
    if kernel.interpreted:
        pytest.skip("slow; the contract has the same slopes")
    x, codebook = case_on(kernel, FP64)
    mask = torch.arange(6, device=kernel.device) != 2

    def loss(x: Tensor, codebook: Tensor, commitment_weight: float, codebook_weight: float) -> Tensor:
        return vector_quantize(
            x, codebook, commitment_weight=commitment_weight, codebook_weight=codebook_weight, mask=mask,
            reduction=reduction, backend=kernel.backend,
        ).loss  # fmt: skip

    fixed = codebook.detach()
    assert gradcheck(lambda x: loss(x, fixed, 0.3, 0.0), (x,))
    assert gradcheck(lambda codebook: loss(x.detach(), codebook, 0.0, 0.6), (codebook,))
    if reduction == "none":
        assert gradgradcheck(lambda x: loss(x, fixed, 0.3, 0.0), (x,))
        assert gradgradcheck(lambda codebook: loss(x.detach(), codebook, 0.0, 0.6), (codebook,))


def test_the_reductions(backend: Target) -> None:
    x, codebook = case_on(backend)
    mask = torch.tensor([True, False, True, True, False, True], device=backend.device)
    options: dict[str, Any] = {"commitment_weight": 2.0, "mask": mask, "backend": backend.backend}
    none, total, mean = (vector_quantize(x, codebook, reduction=r, **options).loss for r in ("none", "sum", "mean"))
    distances = (x - codebook[nearest_code(x, codebook, backend="reference")]).square().sum(1)
    torch.testing.assert_close(none, 2 * distances * mask)
    torch.testing.assert_close(total, none.sum())
    torch.testing.assert_close(mean, none.sum() / (4 * 5))
    options["mask"] = torch.zeros_like(mask)
    assert vector_quantize(x, codebook, **options).loss == 0
    assert vector_quantize(x[:0], codebook, backend=backend.backend).loss == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_values_are_the_codes(backend: Target, dtype: torch.dtype) -> None:
    """To the bit, in any layout and with heads, whose indices count within their own codes."""
    x = random(3, 2, 4, 8, dtype=dtype).to(backend.device).transpose(0, 2)  # [4, 2, 3, 8]: three heads
    codebook = random(8, 5, 3, seed=1).to(backend.device, torch.float32).permute(2, 1, 0)
    quantized, indices, loss = vector_quantize(x, codebook, reduction="none", backend=backend.backend)
    assert quantized.shape == x.shape and quantized.dtype == dtype and quantized.is_contiguous()
    assert indices.shape == loss.shape == (4, 2, 3)
    for head in range(3):
        alone = vector_quantize(x[:, :, head], codebook[head], reduction="none", backend=backend.backend)
        assert torch.equal(indices[:, :, head], alone.indices)
        assert torch.equal(quantized[:, :, head], codebook[head][alone.indices].to(dtype))
        assert torch.equal(loss[:, :, head], alone.loss)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # in the interpreter's numpy
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_special_rows(backend: Target, gradient: str) -> None:
    """Zeros, opposite to the code, not finite, far from the norms that can be squared; padding, whatever it holds."""
    codebook = torch.tensor([[1.0, 2.0, -1.0], [torch.inf, 0.0, 0.0]], device=backend.device, requires_grad=True)
    c = [1.0, 2.0, -1.0]
    rows = [[0.0] * 3, [-3 * v for v in c], [torch.nan, 0.0, 1.0], [0.0, torch.inf, 1.0], [v * 1e-30 for v in c], c,
            [torch.nan] * 3]  # fmt: skip
    x = torch.tensor(rows, device=backend.device, requires_grad=True)
    mask = torch.tensor([True] * 6 + [False], device=backend.device)
    quantized, indices, loss = vector_quantize(
        x, codebook, codebook_weight=1.0, gradient=gradient, mask=mask, reduction="none", backend=backend.backend
    )
    assert indices.tolist() == [0] * 6 + [-1]
    finite = [0, 1, 4, 5]
    assert torch.equal(quantized[finite], torch.tensor([c] * 4, device=backend.device))
    assert quantized[2:4].isnan().all() and loss[2:4].isnan().all()
    assert not quantized[6].any() and loss[6] == 0
    g = random(7, 3, dtype=torch.float32).to(backend.device)
    dx, dcodebook = torch.autograd.grad([quantized, loss], [x, codebook], [g, torch.ones_like(loss)])
    through = g + 0.5 * (x - codebook[0]).detach()
    torch.testing.assert_close(dx[finite], through[finite])  # a rotation by nothing, of c, is none
    assert dx[2:4].isnan().any(1).all() and not dx[6].any()
    torch.testing.assert_close(dcodebook[0], 2 * (4 * codebook[0] - x[finite].sum(0)).detach())
    assert not dcodebook[1].any()


@pytest.mark.parametrize(
    ("dtype", "codes"),
    [(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.float16, torch.float32)],
    ids=["alike", "narrow codes", "narrow x"],
)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_codebook_may_move_before_backward(
    backend: Target, gradient: str, dtype: torch.dtype, codes: torch.dtype
) -> None:
    """And its gradient is from the codes as they were, not as rows of x hold them."""
    grads = []
    for moves in (False, True):
        x, codebook = (v.detach() for v in case_on(backend))
        x, codebook = x.to(dtype).requires_grad_(), codebook.to(codes).requires_grad_()
        quantized, indices, loss = vector_quantize(
            x, codebook, codebook_weight=1.0, gradient=gradient, backend=backend.backend
        )
        c = codebook.detach()[indices].float()
        if moves:
            with torch.no_grad():
                codebook.mul_(-2)
        grads.append(torch.autograd.grad((quantized * x.detach()).sum() + loss, (x, codebook)))
    assert all(map(torch.equal, *grads))
    expected = torch.zeros(4, 5, device=x.device).index_add(0, indices, 2 / 30 * (c - x.detach().float()))
    torch.testing.assert_close(grads[0][1], expected.to(codes))


@pytest.mark.filterwarnings("ignore:overflow encountered")  # in the interpreter's numpy
def test_the_codebook_learns_from_its_loss_alone(backend: Target) -> None:
    x, codebook = case_on(backend)
    quantized, _, loss = vector_quantize(x, codebook, backend=backend.backend)
    assert torch.autograd.grad(quantized.sum() + loss, codebook, allow_unused=True) == (None,)
    assert not vector_quantize(x.detach(), codebook, backend=backend.backend).quantized.requires_grad
    assert vector_quantize(x.detach(), codebook, codebook_weight=1.0, backend=backend.backend).loss.requires_grad
    x, codebook = ((v.detach()[:1].sign() * size).requires_grad_() for v, size in ((x, 3e38), (x, -3e38)))
    quantized, _, _ = vector_quantize(x, codebook, codebook_weight=1.0, backend=backend.backend)
    assert not torch.autograd.grad(quantized[:, 0].sum(), codebook)[0].any(), "0 * infinity"


def test_the_loss_does_not_depend_on_threads() -> None:
    """Nor do gradients: each row's is its own, and the codebook's are code_sums."""
    target = Target("cpp", "cpu")
    if reason := target.why_not():
        pytest.skip(f"{target}: {reason}")
    x, codebook = random(300001, 2, dtype=torch.float32).requires_grad_(), random(3, 2, dtype=torch.float32)
    codebook.requires_grad_()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            quantized, _, loss = vector_quantize(x, codebook, codebook_weight=1.0)
            gradients = torch.autograd.grad(quantized.square().sum() + loss, (x, codebook))
            others = [vector_quantize(x[i:].detach(), codebook).loss for i in range(1, 9)]
            results.append((loss, *gradients, *others))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))
    torch.testing.assert_close(results[0][0], plain(x, codebook, 0.25, 1.0, "straight_through")[1])


# Stochastic codes


@pytest.mark.parametrize("metric", METRICS)
def test_codes_are_drawn_by_their_distances(kernel: Target, metric: str) -> None:
    """Chi-square over the codes of one repeated row far from the origin; a code with NaN is never drawn."""
    if kernel.interpreted:
        pytest.skip("gumbel_argmax is what is interpreted, and has tests of its own")
    count, temperature = 20000, 3.0
    codebook = random(6, 3, dtype=torch.float32).to(kernel.device) + (3000 if METRICS[metric].distance else 0)
    codebook[2, 1] = torch.nan
    row = codebook[0] + 0.5
    _, indices, _ = vector_quantize(
        row.expand(count, 3), codebook, metric=metric, temperature=temperature, seed=1, backend=kernel.backend
    )
    c = codebook.double()
    scores = 2 * (c @ row.double())
    if metric == "l2":
        scores = -(row - c).square().sum(1)
    elif metric == "cosine":
        scores = scores / c.norm(dim=1)
    expected = count * (scores / temperature).nan_to_num(-torch.inf).softmax(0)
    counts = indices.bincount(minlength=6).double()
    assert counts[2] == 0
    keep = torch.arange(6) != 2
    assert ((counts - expected).square() / expected)[keep].sum() < 23.5  # 4 degrees of freedom, p = 1e-4
    assert expected[keep].min() > 100


def test_noise_belongs_to_rows(backend: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks change nothing, shards draw their own parts, heads follow each other, and no temperature overflows."""
    x, codebook = random(5, 2, 4).to(backend.device), random(2, 7, 4, seed=1).to(backend.device)

    def draw(x: Tensor, temperature: float = 20.0, **options: Any) -> Tensor:
        options = {"key": torch.tensor([3, 4], device=x.device), **options}
        return vector_quantize(x, codebook, temperature=temperature, backend=backend.backend, **options).indices

    whole = draw(x)
    assert not torch.equal(whole, draw(x, key=torch.tensor([3, 5], device=x.device)))
    assert torch.equal(whole[2:], draw(x[2:], row_offset=2 * 2))
    assert torch.equal(whole, draw(x[:, None])[:, 0])
    monkeypatch.setattr(composition, "_BLOCK", dict.fromkeys(("cpu", "cuda"), 2 * 2 * 7))
    assert torch.equal(whole, draw(x))
    nearest = nearest_code(x, codebook, backend="reference")
    for temperature, metric in itertools.product((5e-324, 1e-30), METRICS):
        drawn = draw(x.float().double(), temperature, metric=metric)
        assert metric != "l2" or torch.equal(drawn, nearest)
    assert draw(x, mask=torch.zeros(5, dtype=torch.bool, device=x.device)).eq(-1).all()
    codebook = codebook.float()
    codebook[:, 3] = torch.nan
    drawn = draw(x.float(), 1e300)
    assert drawn.any() and (drawn != 3).all()


def test_drawing_compiles(kernel: Target) -> None:
    torch._dynamo.reset()
    x, codebook = random(6, 2, 5, dtype=torch.float32), random(2, 4, 5, seed=1, dtype=torch.float32)
    x, codebook = x.to(kernel.device).requires_grad_(), codebook.to(kernel.device)

    def step(x: Tensor) -> Tensor:
        quantized, indices, loss = vector_quantize(
            x.sin(), codebook, temperature=9.0, seed=7, mask=x[:, 0, 0] > -1, backend=kernel.backend
        )
        return (quantized * indices[..., None]).sum() + loss

    values = [function(x) for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager"))]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, x) for value in values))


def test_rows_that_are_not_finite_have_index_0_at_a_temperature(backend: Target) -> None:
    x = torch.randn(3, 2, 4, device=backend.device)
    x[1, 0, 2], x[2, 1, 0] = torch.nan, torch.inf
    codebook = torch.randn(2, 5, 4, device=backend.device)
    indices = vector_quantize(x, codebook, temperature=1.0, seed=1, backend=backend.backend).indices
    assert indices[1, 0] == 0 and indices[2, 1] == 0 and ((indices >= 0) & (indices < 5)).all()


def test_finite_rows_far_from_their_code(backend: Target) -> None:
    """|x - c|^2 overflows where the quantized row does not."""
    x, codebook = torch.full((1, 20), 1e25, device=backend.device), torch.ones(2, 20, device=backend.device)
    quantized, _, loss = vector_quantize(x, codebook, backend=backend.backend)
    assert torch.equal(quantized, torch.ones_like(x)) and loss == torch.inf


def test_cotangents_of_padding_are_not_read(backend: Target) -> None:
    codebook = torch.randn(4, 3, device=backend.device, requires_grad=True)
    x = torch.randn(2, 3, device=backend.device, requires_grad=True)
    quantized, _, loss = vector_quantize(
        x, codebook, codebook_weight=1.0, reduction="none", mask=torch.tensor([True, False], device=backend.device),
        backend=backend.backend,
    )  # fmt: skip
    cotangents = [torch.ones_like(quantized), torch.tensor([1.0, torch.nan], device=backend.device)]
    cotangents[0][1] = torch.nan
    for gradient in torch.autograd.grad([quantized, loss], [x, codebook], cotangents):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("heads", [None, 3])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_dimension_of_the_columns(backend: Target, heads: int | None, reduction: str) -> None:
    lead = () if heads is None else (heads,)
    x = torch.randn(2, 4, *lead, 5, device=backend.device)
    codes = torch.randn(*lead, 7, 5, device=backend.device)
    mask = torch.rand(2, 4, device=backend.device) > 0.3
    options: Any = {"mask": mask, "reduction": reduction, "backend": backend.backend}

    def run(x: Tensor, dim: int) -> tuple[Tensor, ...]:
        x = x.clone().requires_grad_()
        quantized, indices, loss = vector_quantize(x, codes, dim=dim, **options)
        (dx,) = torch.autograd.grad(quantized.square().sum() + loss.sum(), x)
        assert quantized.shape == x.shape
        return quantized.movedim(dim, -1), indices, loss, dx.movedim(dim, -1)

    right = run(x, -1)
    for dim in range(x.dim()):
        for ours, value in zip(run(x.movedim(-1, dim), dim), right):
            assert torch.equal(ours, value)


def test_a_codebook_that_would_never_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_warnings, "_given", set())
    x, codebook = torch.randn(5, 3), torch.nn.Parameter(torch.randn(4, 3))

    def run(codebook: Tensor, **options: Any) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            vector_quantize(x, codebook, **options)
        assert all(w.filename == __file__ for w in caught)
        return [str(w.message) for w in caught]

    assert not run(codebook.detach()) and not run(codebook, codebook_weight=1.0)
    with torch.no_grad():
        assert not run(codebook)
    (message,) = run(codebook)
    assert message.startswith("vector_quantize: the codebook requires a gradient and gets none with codebook_weight=0")
    assert not run(codebook)


def test_a_temperature_may_be_a_tensor(backend: Target) -> None:
    x, codebook = torch.randn(40, 3), torch.randn(7, 3)

    def draw(temperature: float | Tensor) -> Tensor:
        return vector_quantize(x, codebook, temperature=temperature, seed=1, backend=backend.backend).indices

    assert torch.equal(draw(torch.tensor(0.5)), draw(0.5))
    assert torch.equal(draw(torch.tensor([0.5], dtype=torch.float64)), draw(0.5))
    assert torch.equal(draw(torch.tensor(0.0)), draw(0.0))
    for invalid in (-1.0, torch.nan, torch.inf):
        assert not draw(torch.tensor(invalid)).any()


def test_nothing_is_drawn_at_temperature_zero(backend: Target) -> None:
    x, codebook = case_on(backend)
    state = torch.get_rng_state()
    vector_quantize(x, codebook, backend=backend.backend)
    assert torch.equal(torch.get_rng_state(), state)
    vector_quantize(x, codebook, temperature=1.0, backend=backend.backend)
    assert backend.device == "cuda" or not torch.equal(torch.get_rng_state(), state)
