"""Train a discrete VAE on real MNIST digits with `dvae_kernels.gumbel_softmax`: `python examples/train.py`.

Under two minutes on two CPU cores. Writes demo.png and checkpoint.pt to --out; Ctrl-C stops after the current step,
and --resume goes on to the very numbers (on CPU, to the bit) of a run that was never stopped.
"""

from __future__ import annotations

import argparse
import math
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dvae_kernels import BackendUnavailable, gumbel_softmax
from dvae_kernels._backend import resolve
from dvae_kernels.losses import bernoulli_log_likelihood, categorical_kl

try:
    from tqdm import tqdm

    from dvae import checkpoint
    from dvae.data import Digits, load_digits
    from dvae.model import DiscreteVAE
    from dvae.picture import draw
except ModuleNotFoundError as error:
    package = str(error.name).partition(".")[0]
    raise SystemExit(f"The demo needs {package}; install it with: pip install 'dvae_kernels[demo]'") from error

NUM_CODES = 16
LEARNING_RATE = 4e-3
WARMUP_STEPS = 50
CURVE_POINTS = 20
TEST_SAMPLES = 16  # of the codes per test image, for the final ELBO
# The options that a checkpoint keeps: what a run is, not where it runs.
SAVED_OPTIONS = ("steps", "batch_size", "tau_start", "tau_end", "hard", "seed")


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, Any] | None]:
    """The options, and the checkpoint to resume from. A resumed run takes the options it began with as defaults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1].strip())
    add = parser.add_argument
    add("--steps", type=positive(int), default=2000, help="optimiser steps (default %(default)s)")
    add("--batch-size", type=positive(int), default=100, help="images per step (default %(default)s)")
    add("--tau-start", type=positive(float), default=0.5, help="first temperature (default %(default)s)")
    add("--tau-end", type=positive(float), default=0.1, help="last temperature (default %(default)s)")
    estimator = parser.add_mutually_exclusive_group()
    estimator.add_argument("--soft", dest="hard", action="store_false", help="train on relaxed codes (default)")
    estimator.add_argument("--hard", dest="hard", action="store_true", help="train on one-hot codes, straight-through")
    parser.set_defaults(hard=False)
    add("--backend", help="cpp, triton, cuda or reference (default: the fastest that runs here)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default here: %(default)s")
    add("--seed", type=int, default=0, help="of the weights, the data order and the noise (default %(default)s)")
    add("--out", type=Path, default=Path("out/demo"), help="folder to write to (default %(default)s)")
    add("--resume", action="store_true", help="continue from the checkpoint in --out")
    options = parser.parse_args(argv)
    path = options.out / "checkpoint.pt"
    if not options.resume:
        return options, None
    if not path.exists():
        parser.error(f"nothing to resume: there is no {path}")
    try:
        saved = checkpoint.load(path)
    except ValueError as error:
        parser.error(str(error))
    parser.set_defaults(**saved["options"])
    return parser.parse_args(argv), saved


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text}")
        return value

    return convert


@dataclass
class Run:
    """Everything that training changes, and so everything that a checkpoint holds."""

    model: DiscreteVAE
    optimizer: torch.optim.Optimizer
    device: torch.device
    step: int = 0
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))  # this epoch's images
    position: int = 0  # in `order`
    curve: list[tuple[int, float, float]] = field(default_factory=list)  # (step, train ELBO, test ELBO), nats
    recent: list[float] = field(default_factory=list)  # train ELBOs since the last point of the curve
    seconds: float = 0.0  # spent in training steps

    def state(self) -> dict[str, Any]:
        on_cuda = self.device.type == "cuda"
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if on_cuda else None,
        } | {name: getattr(self, name) for name in ("step", "order", "position", "curve", "recent", "seconds")}

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        for name in ("step", "order", "position", "curve", "recent", "seconds"):
            setattr(self, name, state[name])

    def next_batch(self, images: Tensor, size: int) -> Tensor:
        """The next `size` images of this epoch's random order, freshly binarised. The last short batch is dropped."""
        size = min(size, len(images))
        if self.position + size > len(self.order):
            self.order, self.position = torch.randperm(len(images)), 0
        batch = images[self.order[self.position : self.position + size]]
        self.position += size
        return torch.bernoulli(batch).to(self.device)


def train_step(run: Run, images: Tensor, options: argparse.Namespace) -> float:
    """One step of Adam on the negative ELBO; returns the ELBO in nats per image."""
    progress = run.step / options.steps
    tau = options.tau_start * (options.tau_end / options.tau_start) ** progress
    for group in run.optimizer.param_groups:
        group["lr"] = LEARNING_RATE * min(1, (run.step + 1) / WARMUP_STEPS) * math.cos(math.pi / 2 * progress) ** 2

    x = run.next_batch(images, options.batch_size)
    logits = run.model.encode(x)  # [B, K, 4, 4]
    codes = gumbel_softmax(logits, tau, options.hard, dim=1, backend=options.backend)
    log_likelihood = bernoulli_log_likelihood(run.model.decode(codes), x).sum() / len(x)
    elbo = log_likelihood - categorical_kl(logits, dim=1).sum() / len(x)
    (-elbo).backward()
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.step += 1
    return elbo.item()


class Evaluation(NamedTuple):
    elbo: float  # nats per image
    error: float  # standard error of the mean over images
    kl: float  # nats per image
    usage: Tensor  # [K, 4, 4] share of the images that use each code at each place


@torch.no_grad()
def evaluate(run: Run, images: Tensor, samples: int, backend: str | None) -> Evaluation:
    """The ELBO with exact one-hot codes, the mean of `samples` draws of the log-likelihood and the analytic KL.

    Its noise comes from seeds of its own, so that evaluating more or less often does not change the training.
    """
    run.model.eval()
    elbos, kls, usage = [], [], torch.zeros(())
    for start in range(0, len(images), 100):
        x = images[start : start + 100].to(run.device)
        logits = run.model.encode(x)
        kl = categorical_kl(logits, dim=1).sum((1, 2))
        log_likelihood = torch.zeros_like(kl)
        for seed in range(samples):
            first_row = start * logits[0, 0].numel()
            codes = gumbel_softmax(logits, hard=True, dim=1, seed=seed, row_offset=first_row, backend=backend)
            log_likelihood += bernoulli_log_likelihood(run.model.decode(codes), x).sum((1, 2, 3)) / samples
            usage = usage + codes.sum(0).cpu() / (samples * len(images))
        elbos.append(log_likelihood - kl)
        kls.append(kl)
    run.model.train()
    elbo = torch.cat(elbos)
    error = elbo.std().item() / math.sqrt(len(elbo))
    return Evaluation(elbo.mean().item(), error, torch.cat(kls).mean().item(), usage)


def train(run: Run, digits: Digits, options: argparse.Namespace, save: Callable[[], None]) -> bool:
    """Train to the last step; False if Ctrl-C came before it. The checkpoint is current in both cases."""
    every = max(1, options.steps // CURVE_POINTS)
    seconds = 0.1 if sys.stderr.isatty() else 10  # a log is not a terminal
    bar = tqdm(
        total=options.steps, initial=run.step, unit="step", desc="training", dynamic_ncols=True, mininterval=seconds
    )
    with bar, stop_on_interrupt() as stopped:
        while run.step < options.steps and not stopped():
            start = time.perf_counter()
            run.recent.append(train_step(run, digits.train, options))
            run.seconds += time.perf_counter() - start
            if run.step % every == 0 or run.step == options.steps:
                test = evaluate(run, digits.test, samples=1, backend=options.backend)
                run.curve.append((run.step, statistics.fmean(run.recent), test.elbo))
                run.recent.clear()
                bar.set_postfix_str(f"ELBO train {run.curve[-1][1]:.1f}, test {test.elbo:.1f} nats", refresh=False)
                save()
            bar.update()
    save()
    finished: bool = run.step >= options.steps
    return finished


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C came: the step in progress is finished first. A second Ctrl-C interrupts at once."""
    came = False

    def handler(*_: object) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, before)


def time_samplers(run: Run, images: Tensor, options: argparse.Namespace, repeats: int = 50) -> tuple[float, float]:
    """Median seconds of forward and backward, ours and F.gumbel_softmax's, interleaved, on logits as in training."""
    with torch.no_grad():
        logits = run.model.encode(images[: options.batch_size].to(run.device))
    logits.requires_grad_()
    grad = torch.randn_like(logits)
    tau, hard = options.tau_end, options.hard
    samplers: tuple[Callable[[], Tensor], ...] = (
        lambda: gumbel_softmax(logits, tau, hard, dim=1, backend=options.backend),
        lambda: F.gumbel_softmax(logits, tau, hard, dim=1),
    )

    def clock() -> float:
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)
        return time.perf_counter()

    times: tuple[list[float], ...] = ([], [])
    for _ in range(repeats):
        for sampler, column in zip(samplers, times):
            start = clock()
            torch.autograd.grad(sampler(), logits, grad)
            column.append(clock() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def pixel_baseline(digits: Digits) -> float:
    """Test log-likelihood, in nats per image, of independent pixels with the means of the training images."""
    mean = digits.train.mean(0).clamp(1e-3, 1 - 1e-3)
    return bernoulli_log_likelihood(mean.logit().expand_as(digits.test), digits.test).sum().item() / len(digits.test)


def main(argv: Sequence[str] | None = None) -> int:
    begin = time.perf_counter()
    options, saved = parse(argv)
    try:
        device = torch.device(options.device)
        backend = resolve("gumbel_softmax", options.backend, device.type)
    except (BackendUnavailable, RuntimeError, ValueError) as error:
        raise SystemExit(str(error)) from error

    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "checkpoint.pt"
    digits = load_digits()
    torch.manual_seed(options.seed)
    model = DiscreteVAE(NUM_CODES).to(device)
    run = Run(model, torch.optim.Adam(model.parameters(), LEARNING_RATE), device)
    if saved is not None:
        run.restore(saved)
        print(f"Resuming {path} at step {run.step} of {options.steps}")
    kind = "one-hot codes, straight-through" if options.hard else "relaxed codes"
    print(f"Discrete VAE, 4 x 4 codes of {NUM_CODES}, {kind}; gumbel_softmax runs on {device} by backend {backend}")

    kept = {name: getattr(options, name) for name in SAVED_OPTIONS}
    if not train(run, digits, options, lambda: checkpoint.save(path, run.state() | {"options": kept})):
        print(f"Stopped at step {run.step} and saved {path}; continue with:")
        print(f"  python examples/train.py --out {options.out} --resume")
        return 130

    test = evaluate(run, digits.test, TEST_SAMPLES, options.backend)
    baseline = pixel_baseline(digits)
    ours, torchs = time_samplers(run, digits.train, options)
    step = run.seconds / run.step
    picture = options.out / "demo.png"
    draw(picture, run.model, digits.test, run.curve, test.elbo, test.usage, baseline, options.backend)
    print(
        f"Test ELBO   {test.elbo:.2f} nats per image, standard error {test.error:.2f} "
        f"({len(digits.test)} held-out images, {TEST_SAMPLES} one-hot samples each)\n"
        f"            log-likelihood {test.elbo + test.kl:.2f} - KL to the uniform prior {test.kl:.2f}\n"
        f"Baseline    {baseline:.2f} nats per image (independent pixels)\n"
        f"Sampler     {ours * 1e3:.3f} ms forward and backward by {backend}, F.gumbel_softmax {torchs * 1e3:.3f} ms: "
        f"{torchs / ours:.1f} times faster\n"
        f"            {ours / step:.1%} of the {step * 1e3:.1f} ms training step, where torch's would take "
        f"{torchs / (step - ours + torchs):.1%}\n"
        f"Picture     {picture}\n"
        f"Time        {time.perf_counter() - begin:.0f} s, of which {run.seconds:.0f} s are training steps"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
