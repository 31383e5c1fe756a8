"""A number that changes as training goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from dvae_kernels import _autograd, _validate
from dvae_kernels._dtypes import LARGEST, LEAST_NORMAL

# (start, end, progress from 0 to 1) -> value
Shape = Literal["linear", "exponential", "cosine"]
_SHAPES: dict[Shape, Callable[[float, float, Tensor], Tensor]] = {
    "linear": lambda start, end, progress: start + (end - start) * progress,
    "exponential": lambda start, end, progress: start * (end / start) ** progress,
    "cosine": lambda start, end, progress: start + (end - start) * (1 - torch.cos(math.pi * progress)) / 2,
}


class Schedule(nn.Module):
    """A number that is annealed during training: the temperature tau of a relaxed sample, the sharpness beta of a
    smoothing transformation, the weight of a KL term.

    With t = clamp((position - hold) / steps, 0, 1), where `position` counts the calls of step():

        linear:      start + (end - start) t
        exponential: start (end / start)^t, equal factors in equal steps
        cosine:      start + (end - start) (1 - cos(pi t)) / 2, slow at both ends

    Calling the schedule gives its value as a tensor, which kernels read on the device: nothing waits for the device,
    and torch.compile neither recompiles nor freezes it. float() gives it as a number.

    Args:
        start: the first value, finite in float32; a normal number of it, above 0, for "exponential".
        end: the last value, likewise; it stays.
        steps: the number of steps from start to end, in [1, 2^32).
        shape: "linear", "exponential" or "cosine".
        hold: the number of steps before that for which the value stays at start, in [0, 2^32).

    Attributes:
        position: the number of steps made, an int64 scalar and all of the state, whichever way it is loaded: the value
            is computed from it at every call. step() changes it in place, so that a captured CUDA graph follows it. It
            stays int64 where the module that holds the schedule changes its dtype.

    Raises:
        TypeError: for arguments of a wrong type.
        ValueError: for arguments outside the ranges above.
        RuntimeError: where activation checkpointing calls the schedule again in backward, after a step, and would get
            another value than forward got. Call the schedule outside the checkpointed function, or step after backward.

    Source: the exponential shape is that of Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax", ICLR
    2017 (arXiv:1611.01144), section 4.

    Example:
        >>> beta = dvae_kernels.nn.Schedule(2, 16, steps=3, shape="exponential")
        >>> for _ in range(5):
        ...     print(beta().item())
        ...     beta.step()
        2.0
        4.0
        8.0
        16.0
        16.0
        >>> beta()
        tensor(16.)
    """

    position: Tensor

    def __init__(self, start: float, end: float, steps: int, *, shape: Shape = "linear", hold: int = 0):
        super().__init__()
        _validate.one_of("Schedule", "shape", shape, tuple(_SHAPES))
        for name, number in (("start", start), ("end", end)):
            _validate.number("Schedule", name, number)
            if not abs(number) <= LARGEST[torch.float32]:
                raise ValueError(f"Schedule: expected {name} to be finite in float32, got {number}")
            if shape == "exponential" and number < LEAST_NORMAL[torch.float32]:
                raise ValueError(f"Schedule: expected {name} >= 2^-126 for shape 'exponential', got {number}")
        _validate.count("Schedule", "steps", steps)
        _validate.count("Schedule", "hold", hold, least=0)
        self.start, self.end, self.steps, self.shape, self.hold = float(start), float(end), steps, shape, hold
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def reset_parameters(self) -> None:
        """Go back to the start, as after to_empty() of a module that was made on the meta device."""
        self.position.zero_()

    def forward(self) -> Tensor:
        """The value as a float32 scalar of its own, which later steps leave alone: backward may come after them."""
        _autograd.check_unchanged_in_recomputation("Schedule: its position", self.position)
        return self._exact(_autograd.snapshot(self.position)).float()

    def __float__(self) -> float:
        """The value as a number, in float64; this waits for the device."""
        return self._exact(self.position).item()

    def step(self) -> None:
        """Go one step on."""
        self.position.add_(1)

    def _exact(self, position: Tensor) -> Tensor:
        progress = ((position - self.hold).double() / self.steps).clamp(0, 1)
        return _SHAPES[self.shape](self.start, self.end, progress)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Schedule:
        def move(buffer: Tensor) -> Tensor:
            moved = fn(buffer)
            return moved if moved.dtype == buffer.dtype else buffer.to(moved.device)

        return super()._apply(move, recurse)

    def extra_repr(self) -> str:
        held = f" after {self.hold}" if self.hold else ""
        return f"{self.start:g} to {self.end:g} in {self.steps} steps{held}, {self.shape}"
