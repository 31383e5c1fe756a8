"""Argument checks with uniform messages: `op: expected this, got that`. TypeError for types, ValueError for values.

Python scalars are checked by value. Tensor values are not: that would synchronise with the device.
"""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from dvae_kernels._dtypes import FLOATS


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def type_name(value: Any) -> str:
    return type(value).__name__


def floating(op: str, name: str, value: Any) -> None:
    """A strided float tensor of a dtype that kernels know."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: expected {name} to be a Tensor, got {type_name(value)}")
    if value.dtype not in FLOATS:
        raise TypeError(f"{op}: expected floating-point {name}, got {dtype_name(value.dtype)}")
    strided(op, name, value)


def strided(op: str, name: str, value: Tensor) -> None:
    if value.is_nested:
        raise TypeError(f"{op}: expected {name} to be a plain Tensor, got a nested one")
    if value.layout != torch.strided:
        raise TypeError(f"{op}: expected strided {name}, got layout {value.layout}")


def on_device(op: str, name: str, value: Tensor, device: torch.device) -> None:
    if value.device != device:
        raise ValueError(f"{op}: expected {name} on {device}, got {value.device}")


def alike(op: str, name: str, tensor: Tensor, device: torch.device, *dtypes: torch.dtype) -> None:
    """A strided tensor on the device, and of one of the dtypes, of another one."""
    strided(op, name, tensor)
    if tensor.dtype not in dtypes:
        expected = " or ".join(map(dtype_name, dtypes))
        raise TypeError(f"{op}: expected {name} of dtype {expected}, got {dtype_name(tensor.dtype)}")
    on_device(op, name, tensor, device)


def broadcastable(op: str, name: str, tensor: Tensor, shape: torch.Size) -> None:
    """A tensor that `expand` can bring to `shape`."""
    extra = len(shape) - tensor.dim()
    if extra < 0 or any(n not in (1, m) for n, m in zip(tensor.shape, shape[extra:])):
        raise ValueError(f"{op}: expected {name} that broadcasts to {tuple(shape)}, got shape {tuple(tensor.shape)}")


def broadcast_with_logits(op: str, name: str, tensor: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Both in their common shape."""
    try:
        return torch.broadcast_tensors(tensor, logits)
    except RuntimeError:
        shapes = f"{tuple(tensor.shape)} and {tuple(logits.shape)}"
        raise ValueError(f"{op}: expected {name} and logits that broadcast, got shapes {shapes}") from None


def dimension(op: str, tensor: Tensor, dim: Any) -> int:
    """`dim` counted from the front."""
    integer(op, "dim", dim)
    n = tensor.dim()
    if n == 0:
        raise ValueError(f"{op}: expected at least one dimension, got a scalar")
    if not -n <= dim < n:
        raise ValueError(f"{op}: expected dim in [{-n}, {n - 1}], got {dim}")
    return dim % n


def some_category(op: str, shape: torch.Size, dim: int) -> None:
    """Rows, if there are any, that have a category to choose."""
    if shape[dim] == 0 and 0 not in (*shape[:dim], *shape[dim + 1 :]):
        raise ValueError(f"{op}: expected at least one category along dim {dim}, got shape {tuple(shape)}")


def codebook(op: str, codes: Any, x: Tensor) -> None:
    """Codes [K, D], or [H, K, D] for heads, that go with the rows of x, [..., D] or [..., H, D]."""
    codebook_shape(op, codes)
    if 0 in codes.shape:
        raise ValueError(f"{op}: expected a codebook with codes, got shape {tuple(codes.shape)}")
    row = (*codes.shape[:-2], codes.shape[-1])
    if x.shape[-len(row) :] != row:
        raise ValueError(f"{op}: expected x of shape [..., {', '.join(map(str, row))}], got {tuple(x.shape)}")
    on_device(op, "codebook", codes, x.device)
    if (x.dtype == torch.float64) != (codes.dtype == torch.float64):
        names = f"{dtype_name(x.dtype)} and {dtype_name(codes.dtype)}"
        raise TypeError(f"{op}: expected x and codebook both float64 or neither, got {names}")


def codebook_shape(op: str, codes: Any) -> None:
    """Codes [K, D], or [H, K, D] for heads."""
    floating(op, "codebook", codes)
    if codes.dim() not in (2, 3):
        raise ValueError(f"{op}: expected codebook of shape [K, D] or [H, K, D], got {tuple(codes.shape)}")


def one_of(op: str, name: str, value: Any, choices: Collection[str]) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{op}: expected {name} to be a str, got {type_name(value)}")
    if value not in choices:
        raise ValueError(f"{op}: unknown {name} {value!r}, expected one of {', '.join(choices)}")


def boolean(op: str, name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{op}: expected {name} to be a bool, got {type_name(value)}")


def integer(op: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, numbers.Integral)):
        raise TypeError(f"{op}: expected {name} to be an int, got {type_name(value)}")


def count(op: str, name: str, value: Any, *, least: int = 1, bits: int = 32) -> None:
    """A number of things, which so many bits hold: `least` or more."""
    integer(op, name, value)
    if not least <= value < 1 << bits:
        raise ValueError(f"{op}: expected {name} in [{least}, 2^{bits}), got {value}")


def temperature(op: str, name: str, value: Any, device: torch.device, *, positive: bool = False) -> None:
    """A finite Python number >= 0, or > 0 where it must be `positive`, or a one-element float tensor on `device`
    (whose value is not looked at)."""
    if isinstance(value, Tensor):
        floating(op, name, value)
        if value.numel() != 1:
            raise ValueError(f"{op}: expected {name} with one element, got shape {tuple(value.shape)}")
        return on_device(op, name, value, device)
    if not _is_number(value):
        raise TypeError(f"{op}: expected {name} to be a float or a Tensor, got {type_name(value)}")
    if not 0 <= value < math.inf or (positive and value == 0) or _beyond_floats(value):
        raise ValueError(f"{op}: expected finite {name} {'>' if positive else '>='} 0, got {value}")


def number(op: str, name: str, value: Any) -> None:
    if not _is_number(value):
        raise TypeError(f"{op}: expected {name} to be a float, got {type_name(value)}")


def _is_number(value: Any) -> bool:
    # NumPy's numbers register with the classes of `numbers`, whose checks take longer
    return isinstance(value, (int, float, numbers.Real)) and not isinstance(value, bool)


def _beyond_floats(value: Any) -> bool:
    return isinstance(value, int) and value > sys.float_info.max


def share(op: str, name: str, value: Any) -> None:
    """A Python number in [0, 1]."""
    number(op, name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{op}: expected {name} in [0, 1], got {value}")


def weight(op: str, name: str, value: Any) -> None:
    """A finite Python number >= 0."""
    number(op, name, value)
    if not 0 <= value < math.inf or _beyond_floats(value):
        raise ValueError(f"{op}: expected finite {name} >= 0, got {value}")


def written(op: str, tensors: dict[str, Tensor]) -> None:
    """Tensors that an op writes in place: autograd lets it, and no two elements share memory, of one or of two."""
    taken: list[tuple[str, Tensor, int, int]] = []
    for name, tensor in tensors.items():
        contiguous = tensor.is_contiguous()
        if not contiguous and any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape)):
            raise ValueError(f"{op}: expected {name} whose elements do not share memory, got strides {tensor.stride()}")
        if torch.compiler.is_compiling():  # where memory has no address
            continue
        if tensor.is_inference() and not torch.is_inference_mode_enabled():
            raise ValueError(f"{op}: expected {name} that may be written here, got a tensor made in inference mode")
        elements = tensor.numel()
        if not contiguous:
            if not _nests(tensor) and _places(tensor).unique().numel() < elements:
                strides = tensor.stride()
                raise ValueError(f"{op}: expected {name} whose elements do not share memory, got strides {strides}")
            elements = 1 + sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape))
        start = tensor.data_ptr()
        end = start + elements * tensor.element_size()
        for other_name, other, other_start, other_end in taken:
            if start < other_end and other_start < end and _share(tensor, other):
                raise ValueError(f"{op}: expected {name} and {other_name} that do not share memory")
        taken.append((name, tensor, start, end))


def _nests(tensor: Tensor) -> bool:
    """Whether each stride, from the least, steps over all that the lesser ones reach: then no elements share memory."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape)):
        if size > 1 and stride <= reach:
            return False
        reach += stride * (size - 1)
    return True


def _places(tensor: Tensor) -> Tensor:
    """The addresses of a tensor's elements."""
    places = torch.full((), tensor.data_ptr(), dtype=torch.int64)
    for stride, size in zip(tensor.stride(), tensor.shape):
        places = places.unsqueeze(-1) + torch.arange(size) * (stride * tensor.element_size())
    return places.flatten()


def _share(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors, each without elements that share memory, have memory in common. Exact where their elements
    are of one size."""
    return torch.cat([_places(a), _places(b)]).unique().numel() < a.numel() + b.numel()


def mask(op: str, value: Any, device: torch.device, shape: torch.Size) -> None:
    """A bool tensor on `device` that broadcasts to `shape`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: expected mask to be a Tensor, got {type_name(value)}")
    alike(op, "mask", value, device, torch.bool)
    broadcastable(op, "mask", value, shape)


def sharpness(op: str, name: str, value: Any, device: torch.device, shape: torch.Size) -> None:
    """A finite Python number > 0, or a float tensor on `device` of one element or that broadcasts to `shape` (whose
    values are not looked at)."""
    if not isinstance(value, Tensor):
        return temperature(op, name, value, device, positive=True)
    floating(op, name, value)
    on_device(op, name, value, device)
    if value.numel() != 1:
        broadcastable(op, name, value, shape)


def noise_key(op: str, key: Any) -> None:
    """int64[2]."""
    if not isinstance(key, Tensor):
        raise TypeError(f"{op}: expected key to be a Tensor, got {type_name(key)}")
    strided(op, "key", key)
    if key.dtype != torch.int64:
        raise TypeError(f"{op}: expected key of dtype int64, got {dtype_name(key.dtype)}")
    if key.shape != (2,):
        raise ValueError(f"{op}: expected key of shape (2,), got {tuple(key.shape)}")


def noise_source(op: str, device: torch.device, key: Any, seed: Any, generator: Any, noise: Any = None) -> None:
    """At most one of key, seed and generator, and each of the right kind; none of them beside noise that is given."""
    if (key is not None) + (seed is not None) + (generator is not None) + (noise is not None) > 1:
        given = [name for name, v in (("key", key), ("seed", seed), ("generator", generator)) if v is not None]
        if noise is not None:
            raise ValueError(f"{op}: expected no key, seed or generator beside noise, got {' and '.join(given)}")
        raise ValueError(f"{op}: expected at most one of key, seed and generator, got {' and '.join(given)}")
    if key is not None:
        noise_key(op, key)
        if key.device != device:
            on_device(op, "key", key, device)
    if seed is not None:
        integer(op, "seed", seed)
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"{op}: expected generator to be a torch.Generator, got {type_name(generator)}")
        if generator.device.type != device.type:
            raise ValueError(f"{op}: expected a generator on {device.type}, got {generator.device.type}")


def row_range(op: str, row_offset: Any, rows: int) -> None:
    """The noise stream numbers rows in 32 bits. An exported program has no such bound: beyond it, they begin at 0."""
    integer(op, "row_offset", row_offset)
    if row_offset < 0 or (not torch.compiler.is_exporting() and row_offset + rows > 1 << 32):
        raise ValueError(f"{op}: expected rows within [0, 2^32), got {rows} from row_offset {row_offset}")


def index_range(op: str, index_offset: Any, count: int) -> None:
    """The noise stream numbers elements in 64 bits."""
    integer(op, "index_offset", index_offset)
    if isinstance(count, Tensor):  # in torch.jit.trace, where no tensor holds 2^64
        count = int(count)
    if index_offset < 0 or (not torch.compiler.is_exporting() and index_offset + count > 1 << 64):
        raise ValueError(f"{op}: expected elements within [0, 2^64), got {count} from index_offset {index_offset}")
