"""One picture of a trained discrete VAE."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor

from dvae.latent import Latent
from dvae.model import DiscreteVAE

matplotlib.use("Agg")  # write files, on machines without a display too

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#3465a4", "#d9721a", "#8a8a8a"
SIZE = (12.6, 8.1)  # inches
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@torch.no_grad()
def draw(
    path: Path,
    model: DiscreteVAE,
    latent: Latent,
    test: Tensor,
    curve: list[tuple[int, float, float]],
    elbo: float,
    usage: Tensor,
    baseline: float,
) -> None:
    """Write originals, reconstructions, prior samples, learning curve and code usage to `path`.

    test: [N, 1, 28, 28] in {0, 1}, sorted by digit. curve: (step, train ELBO, test ELBO) in nats per image.
    usage: [16, 4, 4], the share of test images that use each code at each place.
    """
    device = next(model.parameters()).device
    model.eval()
    per_digit = len(test) // 10
    originals = torch.cat([test[i::per_digit] for i in range(3)])  # three rows of the digits 0 to 9
    codes = latent.exact(model.encode(originals.to(device)), seed=0)
    reconstructions = model.decode(codes).sigmoid()
    prior = latent.prior(60, torch.Generator().manual_seed(0)).to(device)
    samples = model.decode(prior).sigmoid()
    model.train()

    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=SIZE)
        show_digits(place(figure, 0.3, 0.4, 5.5, 1.65), originals, "Originals: held-out digits, binarised")
        show_digits(place(figure, 0.3, 2.5, 5.5, 1.65), reconstructions, "Reconstructions: probability of each pixel")
        show_digits(place(figure, 0.3, 4.6, 5.5, 3.3), samples, "Samples: codes drawn from the uniform prior")
        show_curve(place(figure, 7.0, 0.4, 5.2, 3.7), curve, latent.exact_name, elbo, baseline)
        show_usage(place(figure, 7.0, 5.0, 4.55, 2.5), place(figure, 11.7, 5.0, 0.13, 2.5), usage)
        temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp.png")
        figure.savefig(temporary, dpi=100, pil_kwargs={"optimize": True})
        os.replace(temporary, path)
        plt.close(figure)


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches, from the upper left corner."""
    return figure.add_axes((left / SIZE[0], 1 - (top + height) / SIZE[1], width / SIZE[0], height / SIZE[1]))


def show_digits(axes: Axes, images: Tensor, title: str) -> None:
    """A sheet of [N, 1, 28, 28] images, ten to a row, with a thin gap between them."""
    tiles = torch.nn.functional.pad(images.cpu(), (1, 1, 1, 1))
    sheet = tiles.reshape(-1, 10, 30, 30).transpose(1, 2).flatten(2).flatten(0, 1)
    axes.imshow(sheet.numpy(), cmap="gray_r", vmin=0, vmax=1)
    axes.set_title(title)
    axes.set_axis_off()


def show_curve(
    axes: Axes, curve: list[tuple[int, float, float]], exact_name: str, elbo: float, baseline: float
) -> None:
    steps, train, test = zip(*curve)
    axes.plot(steps, train, color=GREY, label="train, as optimised")
    axes.plot(steps, test, color=BLUE, marker="o", markersize=3.5, label=f"test, with {exact_name}")
    axes.axhline(baseline, color=ORANGE, linestyle="--", label="test, independent pixels")
    axes.set_title(f"Learning curve: test ELBO {elbo:.1f} nats per image")
    axes.set_xlabel("step")
    axes.set_ylabel("ELBO (nats per image)")
    axes.set_xlim(0, steps[-1] * 1.02)
    axes.set_ylim(min(test[0], baseline) - 5, max(train + test) + 5)  # the first steps fall far below
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.12))


def show_usage(axes: Axes, colorbar: Axes, usage: Tensor) -> None:
    share = usage.flatten(1)  # [codes, places]
    perplexity = torch.special.entr(share).sum(0).exp().mean().item()
    codes, places = share.shape
    image = axes.imshow(100 * share.numpy(), cmap="Blues", vmin=0, aspect="auto")
    axes.set(
        title=f"Code usage: mean perplexity {perplexity:.1f} of {codes} codes",
        xlabel="place in the 4 x 4 grid, row by row",
        ylabel="code",
        xticks=range(places),
        yticks=range(codes),
    )
    axes.tick_params(length=0)
    plt.colorbar(image, cax=colorbar, label="share of test images (%)")
    colorbar.tick_params(length=2)
