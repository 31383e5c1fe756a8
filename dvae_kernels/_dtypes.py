"""Which floating-point dtypes there are, and the ones that are computed in and returned."""

from __future__ import annotations

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, torch.float64, *HALVES)  # in the order of Storage in csrc/common/storage.h

# Of the compute dtypes: the largest number, the least normal one and the least of all. torch.finfo takes a microsecond.
LARGEST, LEAST_NORMAL, LEAST = (
    {torch.float32: single, torch.float64: double}
    for single, double in (
        (torch.finfo(torch.float32).max, torch.finfo(torch.float64).max),
        (2.0**-126, 2.0**-1022),
        (2.0**-149, 2.0**-1074),
    )
)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def sample_dtype(logits: Tensor) -> torch.dtype:
    """The dtype of samples: the logits' own, or float32 for half logits under autocast."""
    dtype = logits.dtype
    if dtype not in HALVES:
        return dtype
    device = logits.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.float32 if autocast else dtype


def new_sample(logits: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(logits, dtype=dtype)
