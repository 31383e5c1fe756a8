"""Which floating-point dtypes there are, and the ones that are computed in and returned."""

from __future__ import annotations

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, torch.float64, *HALVES)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def sample_dtype(logits: Tensor) -> torch.dtype:
    """The dtype of samples: the logits' own, or float32 for half logits under autocast."""
    half = logits.dtype in HALVES
    device = logits.device.type
    autocast = half and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.float32 if autocast else logits.dtype
