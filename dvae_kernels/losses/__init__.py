"""Likelihoods and divergences of discrete VAEs, in nats. Sum them over latents and pixels to get an ELBO."""

from dvae_kernels.losses.divergences import bernoulli_kl, categorical_kl
from dvae_kernels.losses.likelihoods import bernoulli_log_likelihood

__all__ = ["bernoulli_kl", "bernoulli_log_likelihood", "categorical_kl"]
