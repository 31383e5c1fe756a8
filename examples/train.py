"""Train a discrete VAE on real MNIST digits with the kernels of dvae_kernels: `python examples/train.py`.

Under two minutes on two CPU cores. The latents are categories, or with --latent smoothing:KIND bits. Writes demo.png
and checkpoint.pt to --out; Ctrl-C stops after the current step, and --resume goes on to the very numbers (on CPU, to
the bit) of a run that was never stopped.
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
from typing import Any

import torch
from torch import Tensor

from dvae_kernels import SMOOTHING_KINDS, BackendUnavailable
from dvae_kernels._backend import resolve
from dvae_kernels.losses import bernoulli_log_likelihood
from dvae_kernels.nn import Schedule

try:
    from tqdm import tqdm

    from dvae import checkpoint
    from dvae.data import Digits, load_digits
    from dvae.evaluation import evaluate, pixel_baseline, time_samplers
    from dvae.latent import LATENTS, Binary, Categorical, Latent
    from dvae.model import DiscreteVAE
    from dvae.picture import draw
except ModuleNotFoundError as error:
    package = str(error.name).partition(".")[0]
    raise SystemExit(f"The demo needs {package}; install it with: pip install 'dvae_kernels[demo]'") from error

LEARNING_RATE = 4e-3
WARMUP_STEPS = 50
CURVE_POINTS = 20
TEST_SAMPLES = 16  # of the codes per test image, for the final ELBO
# The options that a checkpoint keeps: what a run is, not where it runs.
SAVED_OPTIONS = ("latent", "steps", "batch_size", "tau_start", "tau_end", "hard", "beta_start", "beta_end", "seed")


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, Any] | None]:
    """The options, and the checkpoint to resume from. A resumed run takes the options it began with as defaults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1].strip())
    add = parser.add_argument
    add("--steps", type=positive(int), default=2000, help="optimiser steps (default %(default)s)")
    add("--batch-size", type=positive(int), default=100, help="images per step (default %(default)s)")
    add("--latent", choices=LATENTS, default="gumbel", metavar="LATENT",
        help="gumbel: categories (default); smoothing:KIND: bits, KIND one of "
        + ", ".join(name.partition(":")[2] for name in LATENTS[1:]))  # fmt: skip
    gumbel = parser.add_argument_group("gumbel")
    gumbel.add_argument(
        "--tau-start", type=positive(float), default=0.5, help="first temperature (default %(default)s)"
    )
    gumbel.add_argument("--tau-end", type=positive(float), default=0.1, help="last temperature (default %(default)s)")
    estimator = gumbel.add_mutually_exclusive_group()
    estimator.add_argument("--soft", dest="hard", action="store_false", help="train on relaxed codes (default)")
    estimator.add_argument("--hard", dest="hard", action="store_true", help="train on one-hot codes, straight-through")
    parser.set_defaults(hard=False)
    smoothing = parser.add_argument_group("smoothing")
    smoothing.add_argument("--beta-start", type=positive(float), help="first sharpness (default: what suits the kind)")
    smoothing.add_argument("--beta-end", type=positive(float), help="last sharpness (default: what suits the kind)")
    add("--backend", help="cpp, triton, cuda or reference (default: the fastest that runs here)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default here: %(default)s")
    add("--seed", type=int, default=0, help="of the weights, the data order and the noise (default %(default)s)")
    add("--out", type=Path, default=Path("out/demo"), help="folder to write to (default %(default)s)")
    add("--resume", action="store_true", help="continue from the checkpoint in --out")
    options = parser.parse_args(argv)
    path = options.out / "checkpoint.pt"
    if not options.resume:
        check(parser, options)
        return options, None
    if not path.exists():
        parser.error(f"nothing to resume: there is no {path}")
    try:
        saved = checkpoint.load(path)
    except ValueError as error:
        parser.error(str(error))
    parser.set_defaults(**saved["options"])
    options = parser.parse_args(argv)
    if options.latent != (latent := saved["options"]["latent"]):
        parser.error(f"{path} is a run with --latent {latent}, not {options.latent}")
    check(parser, options)
    return options, saved


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.hard and options.latent != "gumbel":
        parser.error("--hard goes with --latent gumbel only")


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text}")
        return value

    return convert


def make_latent(options: argparse.Namespace) -> Latent:
    """The latents that the options name, with the schedule of their temperature or sharpness."""
    if options.latent == "gumbel":
        tau = Schedule(options.tau_start, options.tau_end, options.steps, shape="exponential")
        return Categorical(tau, options.hard, options.backend)
    kind = options.latent.partition(":")[2]
    start, end = SMOOTHING_KINDS[kind].typical_beta
    beta = Schedule(options.beta_start or start, options.beta_end or end, options.steps, shape="exponential")
    return Binary(beta, kind, options.backend)


@dataclass
class Run:
    """Everything that training changes, and so everything that a checkpoint holds."""

    model: DiscreteVAE
    latent: Latent
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
            "schedule": self.latent.schedule.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if on_cuda else None,
        } | {name: getattr(self, name) for name in ("step", "order", "position", "curve", "recent", "seconds")}

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.latent.schedule.load_state_dict(state["schedule"])
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
    for group in run.optimizer.param_groups:
        group["lr"] = LEARNING_RATE * min(1, (run.step + 1) / WARMUP_STEPS) * math.cos(math.pi / 2 * progress) ** 2

    x = run.next_batch(images, options.batch_size)
    logits = run.model.encode(x)  # [B, channels, 4, 4]
    log_likelihood = bernoulli_log_likelihood(run.model.decode(run.latent.relaxed(logits)), x).sum() / len(x)
    elbo = log_likelihood - run.latent.kl(logits).sum() / len(x)
    (-elbo).backward()
    run.optimizer.step()
    run.latent.schedule.step()
    run.optimizer.zero_grad()
    run.step += 1
    return elbo.item()


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
                test = evaluate(run.model, run.latent, digits.test, samples=1)
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


def main(argv: Sequence[str] | None = None) -> int:
    begin = time.perf_counter()
    options, saved = parse(argv)
    try:
        device = torch.device(options.device)
        latent = make_latent(options)
        backend = resolve(latent.op, options.backend, device.type)
    except (BackendUnavailable, RuntimeError, ValueError) as error:
        raise SystemExit(str(error)) from error

    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "checkpoint.pt"
    digits = load_digits()
    torch.manual_seed(options.seed)
    model = DiscreteVAE(latent.channels).to(device)
    run = Run(model, latent, torch.optim.Adam(model.parameters(), LEARNING_RATE), device)
    if saved is not None:
        run.restore(saved)
        print(f"Resuming {path} at step {run.step} of {options.steps}")
    print(f"Discrete VAE, {latent.description}; {latent.op} runs on {device} by backend {backend}")

    kept = {name: getattr(options, name) for name in SAVED_OPTIONS}
    if not train(run, digits, options, lambda: checkpoint.save(path, run.state() | {"options": kept})):
        print(f"Stopped at step {run.step} and saved {path}; continue with:")
        print(f"  python examples/train.py --out {options.out} --resume")
        return 130

    test = evaluate(model, latent, digits.test, TEST_SAMPLES)
    baseline = pixel_baseline(digits)
    ours, peers = time_samplers(model, latent, digits.train[: options.batch_size])
    step = run.seconds / run.step
    picture = options.out / "demo.png"
    draw(picture, run.model, latent, digits.test, run.curve, test.elbo, test.usage, baseline)
    print(
        f"Test ELBO   {test.elbo:.2f} nats per image, standard error {test.error:.2f} "
        f"({len(digits.test)} held-out images, {TEST_SAMPLES} samples of {latent.exact_name} each)\n"
        f"            log-likelihood {test.elbo + test.kl:.2f} - KL to the uniform prior {test.kl:.2f}\n"
        f"Baseline    {baseline:.2f} nats per image (independent pixels)\n"
        f"Sampler     {ours * 1e3:.3f} ms forward and backward by {backend}, {latent.peer_name} {peers * 1e3:.3f} ms: "
        f"{peers / ours:.1f} times faster\n"
        f"            {ours / step:.1%} of the {step * 1e3:.1f} ms training step, where the latter would take "
        f"{peers / (step - ours + peers):.1%}\n"
        f"Picture     {picture}\n"
        f"Time        {time.perf_counter() - begin:.0f} s, of which {run.seconds:.0f} s are training steps"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
