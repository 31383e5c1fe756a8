"""A number that changes as training goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dvae_kernels import _validate

# (start, end, progress from 0 to 1) -> value
_SHAPES: dict[str, Callable[[float, float, Tensor], Tensor]] = {
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
        start: the first value, finite in float32; above 0 for "exponential".
        end: the last value, likewise; it stays.
        steps: the number of steps from start to end, in [1, 2^32).
        shape: "linear", "exponential" or "cosine".
        hold: the number of steps before that for which the value stays at start, in [0, 2^32).

    Attributes:
        position: the number of steps made, an int64 scalar and all of the state_dict. A schedule made with the same
            arguments goes on exactly where the saved one stood.
        value: a float32 scalar, changed in place by step(), so that a captured CUDA graph follows it. Its dtype, and
            position's, stay as they are where the module that holds the schedule changes its own, by .half() or
            .to(torch.bfloat16).

    Raises:
        TypeError: for arguments of a wrong type.
        ValueError: for arguments outside the ranges above.

    Source: the exponential shape is that of Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax", ICLR
    2017 (arXiv:1611.01144), section 4.

    Example:
        >>> beta = dvae_kernels.nn.Schedule(1, 8, steps=3, shape="exponential")
        >>> for _ in range(5):
        ...     print(beta().item())
        ...     beta.step()
        1.0
        2.0
        4.0
        8.0
        8.0
        >>> beta()
        tensor(8.)
    """

    position: Tensor
    value: Tensor

    def __init__(self, start: float, end: float, steps: int, *, shape: str = "linear", hold: int = 0):
        super().__init__()
        if shape not in _SHAPES:
            raise ValueError(f"Schedule: unknown shape {shape!r}, expected one of {', '.join(_SHAPES)}")
        for name, number in (("start", start), ("end", end)):
            _validate.number("Schedule", name, number)
            if not abs(number) <= torch.finfo(torch.float32).max:
                raise ValueError(f"Schedule: expected {name} to be finite in float32, got {number}")
            if shape == "exponential" and number <= 0:
                raise ValueError(f"Schedule: expected {name} > 0 for shape 'exponential', got {number}")
        _validate.count("Schedule", "steps", steps)
        _validate.count("Schedule", "hold", hold, least=0)
        self.start, self.end, self.steps, self.shape, self.hold = float(start), float(end), steps, shape, hold
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self.register_buffer("value", torch.empty((), dtype=torch.float32), persistent=False)
        self._update()

    def forward(self) -> Tensor:
        """The value as a float32 scalar of its own, which later steps leave alone: backward may come after them."""
        return self.value.clone()

    def __float__(self) -> float:
        """The value as a number, in float64; this waits for the device."""
        return self._exact().item()

    def step(self) -> None:
        """Go one step on."""
        self.position.add_(1)
        self._update()

    def _exact(self) -> Tensor:
        progress = ((self.position - self.hold).double() / self.steps).clamp(0, 1)
        return _SHAPES[self.shape](self.start, self.end, progress)

    def _update(self) -> None:
        self.value.copy_(self._exact())

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._update()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Schedule:
        def move(buffer: Tensor) -> Tensor:
            moved = fn(buffer)
            return moved if moved.dtype == buffer.dtype else buffer.to(moved.device)

        return super()._apply(move, recurse)

    def extra_repr(self) -> str:
        held = f" after {self.hold}" if self.hold else ""
        return f"{self.start:g} to {self.end:g} in {self.steps} steps{held}, {self.shape}"
