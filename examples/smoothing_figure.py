"""Draw every smoothing transformation and its gradient: `python examples/smoothing_figure.py`.

After figure 1 of the project's source text, for all kinds: zeta over the noise, for three probabilities and three
sharpnesses, and below it the gradient to the logits.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dvae_kernels import SMOOTHING_KINDS, smoothing_transform

try:
    import matplotlib

    matplotlib.use("Agg")  # write files, on machines without a display too

    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
except ModuleNotFoundError as error:
    raise SystemExit(f"The figure needs {error.name}; install it with: pip install 'dvae_kernels[demo]'") from error

PROBABILITIES = {0.2: "#3465a4", 0.5: "#4e9a45", 0.8: "#d9721a"}
BETAS: dict[float, Any] = {2.0: ":", 4.0: "-", 12.0: "--"}
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "smoothing.png"
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.3,
    "lines.solid_capstyle": "butt",
}


def curves(kind: str, p: float, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """(noise, zeta, gradient to the logits), denser where the noise crosses 1 - p."""
    step = torch.logspace(-7, -1, 200, dtype=torch.float64)
    grid = torch.linspace(0, 1, 401, dtype=torch.float64)
    noise = torch.cat([grid, 1 - p - step, 1 - p + step]).clamp(0, 1).unique()
    logits = torch.tensor(p, dtype=torch.float64).logit().expand(noise.shape).requires_grad_()
    zeta = smoothing_transform(logits, torch.tensor(beta), kind, noise=noise, backend="reference")
    (gradient,) = torch.autograd.grad(zeta.sum(), logits)
    zeta = zeta.detach()
    falls = torch.cat([zeta[1:] < zeta[:-1] - 0.5, torch.tensor([False])])
    zeta[falls] = torch.nan  # power_mixture starts again at the threshold: two lines
    return noise, zeta, gradient


def show(kind: str, value: Axes, slope: Axes) -> None:
    for p, color in PROBABILITIES.items():
        value.axvline(1 - p, color=color, linewidth=0.8, alpha=0.25)
        slope.axvline(1 - p, color=color, linewidth=0.8, alpha=0.25)
        for beta, line in BETAS.items():
            noise, zeta, gradient = curves(kind, p, beta)
            value.plot(noise, zeta, color=color, linestyle=line)
            slope.plot(noise, gradient, color=color, linestyle=line)
    margin = 0.4 if SMOOTHING_KINDS[kind].whole_line else 0.04
    for level in (0, 1):
        value.axhline(level, color="#555555", linewidth=0.8, alpha=0.25)
    value.set(ylim=(-margin, 1 + margin), xlim=(0, 1), yticks=(0, 0.5, 1), xticks=())
    value.set_title(kind)
    value.set_title(SMOOTHING_KINDS[kind].origin, loc="right", fontsize=9, fontweight="normal", color="#555555")
    slope.set(ylim=(-0.04, 2), xlim=(0, 1), yticks=(0, 1, 2), xticks=(0, 0.2, 0.5, 0.8, 1))
    slope.set_xticklabels(("0", ".2", ".5", ".8", "1"))


def draw(path: Path) -> None:
    with plt.rc_context(STYLE):
        lines = math.ceil(len(SMOOTHING_KINDS) / 3)
        figure = plt.figure(figsize=(11.5, 4 * lines))
        rows = figure.add_gridspec(lines, 3, left=0.055, right=0.985, top=0.945, bottom=0.045, hspace=0.22, wspace=0.16)
        for i, kind in enumerate(SMOOTHING_KINDS):
            row, column = divmod(i, 3)
            pair = rows[row, column].subgridspec(2, 1, height_ratios=(2, 1), hspace=0.08)
            value, slope = figure.add_subplot(pair[0]), figure.add_subplot(pair[1])
            show(kind, value, slope)
            if column == 0:
                value.set_ylabel(r"$\zeta$", fontsize=11)
                slope.set_ylabel(r"$\partial\zeta\,/\,\partial l$", fontsize=11)
            if row == lines - 1:
                slope.set_xlabel("noise")
        handles = [Line2D([], [], color=color, label=f"p = {p:g}") for p, color in PROBABILITIES.items()]
        for beta, line in BETAS.items():
            handles.append(Line2D([], [], color="#555555", linestyle=line, label=f"beta = {beta:g}"))
        figure.legend(handles=handles, ncols=6, loc="upper center", frameon=False, fontsize=10, handlelength=2.6)
        temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp.png")
        figure.savefig(temporary, dpi=100, pil_kwargs={"optimize": True})
        os.replace(temporary, path)
        plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1].strip())
    parser.add_argument("--out", type=Path, default=PICTURE, help="file to write (default: docs/smoothing.png)")
    draw(parser.parse_args(argv).out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
