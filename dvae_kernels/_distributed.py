"""The only file that knows torch.distributed: sums over all processes, by one collective."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def all_reduce_packed(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The sum of each tensor over all processes, by one all-reduce of them all; where torch.distributed is not
    initialised, the tensors themselves.

    The tensors have one dtype and one device, and each has the same shape in every process. Not differentiable.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return tensors
    kinds = {(tensor.dtype, tensor.device) for tensor in tensors}
    if len(kinds) != 1:
        raise ValueError(f"all_reduce_packed: expected tensors of one dtype and device, got {sorted(map(str, kinds))}")
    with torch.no_grad():
        packed = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(packed)
        parts = packed.split([tensor.numel() for tensor in tensors])
    return tuple(part.view(tensor.shape) for part, tensor in zip(parts, tensors))
