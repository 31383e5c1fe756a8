"""What gumbel_softmax_embed alone promises: its indices, its blocks, its special values and dtypes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dvae_kernels import (
    categorical_kl,
    gumbel_argmax,
    gumbel_softmax,
    gumbel_softmax_embed,
    gumbel_softmax_embed_kl,
)
from dvae_kernels.ops.gumbel_softmax_embed import composition
from kit.dtypes import HALVES, skip_unreliable
from kit.oracle import noise_key
from kit.targets import Target

INF, NAN = math.inf, math.nan
soft_and_hard = pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])


def random(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def embed(target: Target, logits: Tensor, codebook: Tensor, *args: Any, kl: bool = False, **options: Any) -> Any:
    """The result and the gradients to the logits, the codebook and a tensor tau, on the CPU."""
    leaves = [x.detach().to(target.device).requires_grad_() for x in (logits, codebook)]
    args = tuple(x.to(target.device).requires_grad_() if isinstance(x, Tensor) else x for x in args)
    key = noise_key(0, target.device)
    function = gumbel_softmax_embed_kl if kl else gumbel_softmax_embed
    result = function(*leaves, *args, key=key, backend=target.backend, **options)
    leaves += [x for x in args if isinstance(x, Tensor)]
    outputs = [x for x in result if x.is_floating_point()]
    cotangents = [random(*x.shape, seed=i).to(x) for i, x in enumerate(outputs)]
    grads = torch.autograd.grad(outputs, leaves, cotangents)
    return [x.detach().cpu() for x in (*result, *grads)]


@soft_and_hard
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_indices_are_those_of_the_hard_sample(target: Target, hard: bool, dim: int) -> None:
    logits, codebook = random(6, 6, 6).to(target.device), random(6, 2).to(target.device)
    key, backend = noise_key(1, target.device), target.backend
    embedding, indices = gumbel_softmax_embed(
        logits, codebook, 0.5, hard, dim=dim, key=key, row_offset=9, backend=backend
    )
    assert torch.equal(indices, gumbel_argmax(logits, dim, key=key, row_offset=9, backend=backend))
    sample = gumbel_softmax(logits, 0.5, hard, dim=dim, key=key, row_offset=9, backend=backend)
    expected = (sample.movedim(dim, -1) @ codebook).movedim(-1, dim)
    torch.testing.assert_close(embedding, expected, rtol=1e-5, atol=1e-6)
    if hard:
        assert torch.equal(embedding.movedim(dim, -1), codebook[indices])


SHAPES = [((23, 7), -1, False), ((4, 7, 9), 1, False), ((7, 30), 0, False), ((3, 7, 3, 3), 1, True)]


@soft_and_hard
@pytest.mark.parametrize("kl", [False, True], ids=["", "kl"])
@pytest.mark.parametrize("learns", [False, True], ids=["", "tau"])
@pytest.mark.parametrize("shape, dim, channels_last", SHAPES, ids=str)
def test_blocks_change_nothing(
    target: Target, monkeypatch: pytest.MonkeyPatch, hard: bool, kl: bool, learns: bool, shape: tuple[int, ...],
    dim: int, channels_last: bool,
) -> None:  # fmt: skip
    """Against plain torch over the sample, in blocks of some rows and of some inner indices."""
    if target.interpreted and (kl or learns) and dim != 1:
        pytest.skip("too slow in the interpreter; some cases run")
    logits, codebook, tau = 2 * random(*shape), random(7, 3, seed=4), torch.tensor(0.7) if learns else 0.7
    if channels_last:
        logits = logits.contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(composition, "_BLOCK", {"cpu": 50, "cuda": 50})
    options = {"dim": dim, "kl": kl, "row_offset": 9}
    blocks = embed(target, logits, codebook, tau, hard, **options)
    expected = embed(Target("reference", "cpu"), logits, codebook, tau, hard, **options)
    for ours, theirs in zip(blocks, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)
    assert blocks[0].stride() == expected[0].stride()


@soft_and_hard
@pytest.mark.parametrize("block", [1 << 20, 8], ids=["whole", "blocks"])
def test_the_kl_alone_has_a_gradient(target: Target, monkeypatch: pytest.MonkeyPatch, hard: bool, block: int) -> None:
    monkeypatch.setattr(composition, "_BLOCK", {"cpu": block, "cuda": block})
    logits, codebook, tau = (
        x.to(target.device).requires_grad_() for x in (random(3, 4), random(4, 2, seed=4), torch.tensor(0.7))
    )
    _, _, kl = gumbel_softmax_embed_kl(logits, codebook, tau, hard, seed=1, backend=target.backend)
    dlogits, dcodebook, dtau = torch.autograd.grad(kl.square().sum(), (logits, codebook, tau))
    assert not dcodebook.any() and dtau == 0
    expected = categorical_kl(logits, backend=target.backend).square().sum()
    torch.testing.assert_close(dlogits, *torch.autograd.grad(expected, logits))


@soft_and_hard
@pytest.mark.parametrize("block", [1 << 20, 8], ids=["whole", "blocks"])
@pytest.mark.parametrize("shape, dim", [((3, 4), 1), ((2, 4, 5), 1)], ids=str)
def test_results_may_be_changed_in_place(
    target: Target, monkeypatch: pytest.MonkeyPatch, hard: bool, block: int, shape: tuple[int, ...], dim: int
) -> None:
    monkeypatch.setattr(composition, "_BLOCK", {"cpu": block, "cuda": block})
    results = []
    for in_place in (False, True):
        logits, codebook = (
            x.to(target.device).requires_grad_() for x in (random(*shape), random(shape[dim], 2, seed=4))
        )
        embedding, _, kl = gumbel_softmax_embed_kl(logits, codebook, 0.7, hard, dim=dim, seed=1, backend=target.backend)
        embedding, kl = (embedding.mul_(3), kl.mul_(2)) if in_place else (embedding * 3, kl * 2)
        results.append(torch.autograd.grad(embedding.square().sum() + kl.square().sum(), (logits, codebook)))
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected)


@soft_and_hard
def test_the_reference_is_the_sample_times_the_codebook(hard: bool) -> None:
    """And its gradients those of autograd, for two of which plain torch makes a tensor of the size of the logits."""
    results = []
    for fused in (True, False):
        logits, codebook, tau = (
            x.double().requires_grad_() for x in (random(2, 5, 4), random(5, 3), torch.tensor(0.6))
        )
        options: dict[str, Any] = {"dim": 1, "seed": 2, "row_offset": 9, "backend": "reference"}
        if fused:
            embedding, _, kl = gumbel_softmax_embed_kl(logits, codebook, tau, hard, **options)
        else:
            sample = gumbel_softmax(logits, tau, hard, **options)
            embedding = torch.einsum("bki,kd->bdi", sample, codebook)
            kl = categorical_kl(logits, dim=1, backend="reference")
        value = embedding.square().sum() + (kl * torch.arange(8).reshape(2, 4).cos()).sum()
        results.append((embedding, kl, *torch.autograd.grad(value, (logits, codebook, tau))))
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


@soft_and_hard
@pytest.mark.parametrize("block", [1 << 20, 40], ids=["whole", "blocks"])
def test_special_rows(target: Target, monkeypatch: pytest.MonkeyPatch, hard: bool, block: int) -> None:
    monkeypatch.setattr(composition, "_BLOCK", {"cpu": block, "cuda": block})
    logits, codebook = random(9, 20), random(20, 4, seed=4)
    logits[1], logits[3, 5], logits[4, 6], logits[6, ::2] = -INF, NAN, INF, -INF
    embedding, indices, dlogits, dcodebook = embed(target, logits, codebook, 0.5, hard)
    assert not embedding[1].any() and indices[1] == -1 and not dlogits[1].any()
    assert embedding[3:5].isnan().all() and (indices[3:5] == -2).all() and dlogits[3:5].isnan().all()
    assert not dlogits[6, ::2].any() and indices[6] % 2 == 1
    # the other rows are as if alone, and theirs alone is the gradient to the codebook
    healthy = torch.tensor([0, 2, 5, 6, 7, 8])
    assert embedding[healthy].isfinite().all() and dlogits[healthy].isfinite().all()
    assert dcodebook.isfinite().all()
    clean = logits.clone()
    clean[[1, 3, 4]] = -INF
    others = embed(target, clean, codebook, 0.5, hard)
    assert torch.equal(indices[healthy], others[1][healthy])
    torch.testing.assert_close(embedding[healthy], others[0][healthy])
    torch.testing.assert_close(dcodebook, others[3])


@soft_and_hard
def test_a_cotangent_of_nan_where_there_is_no_sample_spares_the_codebook(target: Target, hard: bool) -> None:
    """As a loss of NaN embeddings gives it."""
    logits, grads = random(5, 8).to(target.device), []
    for value in (NAN, -INF):
        logits[2] = value
        codebook = random(8, 4, seed=4).to(target.device).requires_grad_()
        embedding, _ = gumbel_softmax_embed(logits, codebook, 0.5, hard, seed=3, backend=target.backend)
        grads += torch.autograd.grad(embedding.square().sum(), codebook)
    torch.testing.assert_close(*grads)


@soft_and_hard
@pytest.mark.parametrize("tau", [0.0, torch.tensor(0.0)], ids=["float", "tensor"])
def test_tau_zero_is_the_hard_sample_without_gradient(target: Target, hard: bool, tau: float | Tensor) -> None:
    logits, codebook = random(6, 20), random(20, 4, seed=4)
    logits[2, 3] = NAN
    embedding, indices, dlogits, dcodebook, *dtau = embed(target, logits, codebook, tau, hard)
    expected = embed(target, logits, codebook, 1.0, True)
    torch.testing.assert_close(embedding, expected[0], equal_nan=True)
    assert torch.equal(indices, expected[1]) and (dlogits == 0).all() and all(x == 0 for x in dtau)
    torch.testing.assert_close(dcodebook, expected[3])


@soft_and_hard
@pytest.mark.parametrize("tau", [-1.0, NAN, INF])
def test_a_tensor_tau_that_is_no_temperature_gives_nan(target: Target, hard: bool, tau: float) -> None:
    embedding, indices, dlogits, dcodebook, dtau = embed(target, random(3, 9), random(9, 4), torch.tensor(tau), hard)
    assert embedding.isnan().all() and (indices == -2).all() and dlogits.isnan().all() and dtau.isnan()
    assert not dcodebook.any()


@soft_and_hard
@pytest.mark.parametrize("logits_dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("codebook_dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
def test_dtypes(
    target: Target, monkeypatch: pytest.MonkeyPatch, hard: bool, logits_dtype: torch.dtype,
    codebook_dtype: torch.dtype, autocast: bool,
) -> None:  # fmt: skip
    """Results in the codebook's dtype, gradients in their inputs'; autocast narrows no product."""
    skip_unreliable(target, logits_dtype, codebook_dtype)
    logits, codebook = random(6, 20).to(logits_dtype), random(20, 4, seed=4).to(codebook_dtype)
    with torch.autocast(target.device, dtype=torch.bfloat16, enabled=autocast):
        embedding, _, kl, dlogits, dcodebook = embed(target, logits, codebook, 0.5, hard, kl=True)
    assert (embedding.dtype, dcodebook.dtype, dlogits.dtype) == (codebook_dtype, codebook_dtype, logits_dtype)
    assert kl.dtype == torch.float32
    wide = embed(target, logits.float(), codebook.float(), 0.5, hard, kl=True)
    eps = max(torch.finfo(logits_dtype).eps, torch.finfo(codebook_dtype).eps, 1e-5)
    for ours, expected in zip((embedding, dlogits, dcodebook), (wide[0], wide[3], wide[4])):
        torch.testing.assert_close(ours.float(), expected, rtol=4 * eps, atol=8 * eps)
    if torch.float32 in (logits_dtype, codebook_dtype) and codebook_dtype == torch.float32:
        torch.testing.assert_close(embedding, wide[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape, order", [((3, 8, 5), (0, 1, 2)), ((3, 8, 5), (0, 2, 1)), ((6, 8, 1), (0, 1, 2))])
def test_the_gradient_to_the_sample_is_laid_out_like_the_logits(shape: tuple[int, ...], order: tuple[int, ...]) -> None:
    like = torch.empty([shape[d] for d in order]).permute([order.index(d) for d in range(3)])
    assert like.shape == shape
    grad = random(shape[0], 4, shape[2])
    result = composition._sample_gradient(grad, random(8, 4, seed=4), like)
    torch.testing.assert_close(result, torch.einsum("odi,kd->oki", grad, random(8, 4, seed=4)))
    assert result.stride() == like.stride() or shape[2] == 1


@soft_and_hard
def test_a_temperature_learns_outside_vmap(target: Target, hard: bool) -> None:
    """Inside of which it does not seem to require a gradient."""
    samples, codebook = random(2, 3, 4).to(target.device), random(4, 2, seed=4).to(target.device)
    key, tau = noise_key(1, target.device), torch.tensor(0.7, device=target.device)

    def loss(logits: Tensor, tau: Tensor) -> Tensor:
        return gumbel_softmax_embed(logits, codebook, tau, hard, key=key, backend=target.backend)[0].square().sum()

    together = torch.func.grad(lambda tau: torch.func.vmap(loss)(samples, tau.expand(2)).sum())(tau)
    alone = torch.func.grad(lambda tau: loss(samples[0], tau) + loss(samples[1], tau))(tau)
    torch.testing.assert_close(together, alone)
