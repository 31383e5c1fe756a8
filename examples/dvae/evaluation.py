"""What a trained model is worth, and what its sampler costs."""

from __future__ import annotations

import math
import statistics
import time
from typing import NamedTuple

import torch
from torch import Tensor

from dvae.data import Digits
from dvae.latent import Latent
from dvae.model import DiscreteVAE
from dvae_kernels.losses import bernoulli_log_likelihood


class Evaluation(NamedTuple):
    elbo: float  # nats per image
    error: float  # standard error of the mean over images
    kl: float  # nats per image
    usage: Tensor  # [16, 4, 4] share of the images that use each code at each place


@torch.no_grad()
def evaluate(model: DiscreteVAE, latent: Latent, images: Tensor, samples: int) -> Evaluation:
    """The ELBO with exact codes, the mean of `samples` draws of the log-likelihood and the analytic KL.

    Its noise comes from seeds of its own, so that evaluating more or less often does not change the training.
    """
    device = next(model.parameters()).device
    model.eval()
    elbos, kls, usage = [], [], torch.zeros(())
    for start in range(0, len(images), 100):
        x = images[start : start + 100].to(device)
        logits = model.encode(x)
        kl = latent.kl(logits).sum((1, 2))
        log_likelihood = torch.zeros_like(kl)
        for seed in range(samples):
            sample = latent.exact(logits, seed, start)
            log_likelihood += bernoulli_log_likelihood(model.decode(sample), x).sum((1, 2, 3)) / samples
            usage = usage + latent.codes(sample).sum(0).cpu() / (samples * len(images))
        elbos.append(log_likelihood - kl)
        kls.append(kl)
    model.train()
    elbo = torch.cat(elbos)
    error = elbo.std().item() / math.sqrt(len(elbo))
    return Evaluation(elbo.mean().item(), error, torch.cat(kls).mean().item(), usage)


def pixel_baseline(digits: Digits) -> float:
    """Test log-likelihood, in nats per image, of independent pixels with the means of the training images."""
    mean = digits.train.mean(0).clamp(1e-3, 1 - 1e-3)
    return bernoulli_log_likelihood(mean.logit().expand_as(digits.test), digits.test).sum().item() / len(digits.test)


def time_samplers(model: DiscreteVAE, latent: Latent, images: Tensor, repeats: int = 50) -> tuple[float, float]:
    """Median seconds of forward and backward, ours and the peer's, interleaved, on logits as in training."""
    device = next(model.parameters()).device
    with torch.no_grad():
        logits = model.encode(images.to(device))
    logits.requires_grad_()
    grad = torch.randn_like(logits)

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    times: tuple[list[float], ...] = ([], [])
    for _ in range(repeats):
        for sample, column in zip((latent.relaxed, latent.peer), times):
            start = clock()
            torch.autograd.grad(sample(logits), logits, grad)
            column.append(clock() - start)
    return statistics.median(times[0]), statistics.median(times[1])
