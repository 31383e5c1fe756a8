"""The floating-point dtypes under test: those of the package. test_validation.py holds that none of them is lost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dvae_kernels._dtypes import FLOATS, HALVES
from kit.targets import Target

# (logits, samples)
PAIRS = [*((dtype, dtype) for dtype in FLOATS), *((half, torch.float32) for half in HALVES)]
# their values of the enum Storage in csrc/common/storage.h, which has their order
STORAGE = {dtype: value for value, dtype in enumerate(FLOATS)}
# in Triton's interpreter, which computes with numpy: float16 is its only half
UNRELIABLE = tuple(dtype for dtype in HALVES if dtype != torch.float16)

each_dtype = pytest.mark.parametrize("dtype", FLOATS, ids=str)
each_half = pytest.mark.parametrize("dtype", HALVES, ids=str)


def autocast_to(logits: Tensor, dtype: torch.dtype, enabled: bool) -> torch.autocast:
    """To `dtype`, of half logits alone: their float64 oracle is not narrowed."""
    half = logits.dtype in HALVES
    return torch.autocast(logits.device.type, dtype=dtype if half else None, enabled=enabled and half)


def skip_unreliable(target: Target, *dtypes: torch.dtype) -> None:
    if target.interpreted and (wrong := [dtype for dtype in dtypes if dtype in UNRELIABLE]):
        pytest.skip(f"{str(wrong[0]).removeprefix('torch.')} is unreliable in the interpreter")


def skip_in_interpreter(target: Target, dtype: torch.dtype) -> None:
    """Also float64, which takes long there."""
    skip_unreliable(target, dtype)
    if target.interpreted and dtype == torch.float64:
        pytest.skip("float64 in the interpreter is left to the contract's cases")
