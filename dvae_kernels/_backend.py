"""Which backend runs a call, and why another one cannot."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dvae_kernels import _extension

NAMES = ("cpp", "triton", "cuda", "reference")

# First available wins; any other device type runs the plain-torch reference.
_PREFERENCE = {"cpu": ("cpp", "reference"), "cuda": ("triton", "cuda", "reference")}

# Read by every call. A plain module global, because ContextVars break torch.compile(fullgraph=True).
_forced: str | None = os.environ.get("DVAE_KERNELS_BACKEND") or None
_outermost = _forced
_open: dict[object, str | None] = {}  # the blocks of use_backend that are open, in the order of their entering
_lock = threading.Lock()
_reasons: dict[tuple[str, str], str] = {}


class BackendUnavailable(RuntimeError):
    """A backend that was asked for by name cannot run here; the message lists every reason."""


def why_not(backend: str, device_type: str) -> str:
    """Why `backend` cannot run tensors of `device_type`; an empty string when it can."""
    cached = _reasons.get((backend, device_type))
    if cached is None:
        cached = _reasons[backend, device_type] = _probe(backend, device_type)
    return cached


# torch.compiler.assume_constant_result sets this attribute; calling it here would import dynamo (seconds).
why_not._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _probe(backend: str, device_type: str) -> str:
    if backend == "reference":
        return ""
    if backend == "cpp":
        return _extension.load("_C") if device_type == "cpu" else "it runs CPU tensors only"
    if backend == "cuda":
        if device_type != "cuda":
            return "it runs CUDA tensors only"
        if not torch.cuda.is_available():
            without = "" if torch.version.cuda else f" (torch {torch.__version__} was built without CUDA)"
            return f"torch.cuda.is_available() is False{without}"
        return _extension.load("_C_cuda")
    if device_type not in ("cpu", "cuda"):
        return "it runs CUDA tensors only"
    if device_type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "it runs CUDA tensors only (on CPU, set TRITON_INTERPRET=1 before the first call: slow, for tests)"
    try:
        import triton  # noqa: F401
    except Exception as error:  # a broken install raises more than ImportError, and the reason must reach the user
        return f"triton cannot be imported ({error}); install it with: pip install 'dvae_kernels[triton]'"
    return ""


def check_name(op: str, backend: str | None) -> None:
    if backend is not None and backend not in NAMES:
        raise ValueError(f"{op}: unknown backend {backend!r}, expected one of {', '.join(NAMES)}")


def resolve(op: str, backend: str | None, device_type: str) -> str:
    """The backend that runs `op` on tensors of `device_type`.

    An explicit `backend` (the argument, else `use_backend`, else DVAE_KERNELS_BACKEND) never falls back.
    Never depends on shapes, which would put guards into compiled graphs.
    """
    chosen = _forced if backend is None else backend
    if chosen is None:
        for name in _PREFERENCE.get(device_type, ()):
            if not why_not(name, device_type):
                return name
        return "reference"
    check_name(op if backend is not None else f"{op} (DVAE_KERNELS_BACKEND)", chosen)
    if why_not(chosen, device_type):
        reasons = (f"{name}: {why_not(name, device_type) or 'available'}" for name in NAMES)
        raise BackendUnavailable(
            f"{op}: backend {chosen!r} is not available for {device_type} tensors\n  " + "\n  ".join(reasons)
        )
    return chosen


@contextmanager
def use_backend(backend: str | None) -> Iterator[None]:
    """Run every op of the block on one backend; `None` restores the automatic choice.

    Process-wide (all threads), since it is a plain global that torch.compile can guard on; where the blocks of several
    threads overlap, the one that was entered last rules until it is left.
    Raises ValueError for an unknown name; a call inside the block raises BackendUnavailable where it cannot run.
    """
    global _forced
    check_name("use_backend", backend)
    if torch.compiler.is_compiling():  # a trace is one thread's, and knows no locks
        before, _forced = _forced, backend
        try:
            yield
        finally:
            _forced = before
        return
    block = object()
    _set(block, backend)
    try:
        yield
    finally:
        _set(block)


def _set(block: object, *backend: str | None) -> None:
    """Open a block, or close it without a backend; the last one that is open rules."""
    global _forced
    with _lock:
        if backend:
            _open[block] = backend[0]
        else:
            del _open[block]
        _forced = next(reversed(_open.values())) if _open else _outermost
