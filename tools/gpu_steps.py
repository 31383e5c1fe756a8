"""The steps of gpu.py that are Python of our own; each runs in a process of its own.

python tools/gpu_steps.py small --backend cuda --device cuda
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dvae_kernels import _backend, _extension

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from kit.discovery import OPINFOS, OPS
from kit.opinfo import Inputs, Op
from kit.oracle import noise_key

# The categories at dimension 1: an inner dimension, a row wider than a block; tails of blocks, one category, nothing.
EVERY_DTYPE = [(2, 33, 3, 5), (2, 5000)]
FLOAT32 = [(5, 70), (4, 1), (0, 8)]


def load(backend: str, device: str) -> None:
    """Exit with the reason unless a carried or built module loads."""
    reason = _backend.why_not(backend, device)
    built = _extension.build_info("_C_cuda" if backend == "cuda" else "_C")
    print(reason or f"built with {built.get('compiler')} for torch {built.get('torch')}, archs {built.get('archs')}")
    sys.exit(bool(reason))


def small(backend: str, device: str) -> None:
    """Every raw op on small shapes against the reference: what the sanitizer watches. Contract tests judge accuracy."""
    assert not (reason := _backend.why_not(backend, device)), reason  # loads the module
    half = torch.float16 if device == "cpu" else torch.bfloat16  # the interpreter is unreliable in bfloat16
    calls = 0
    for info in OPINFOS:
        torch.manual_seed(0)
        for dtype in (torch.float32, torch.float64, half):
            for shape in EVERY_DTYPE + (FLOAT32 if dtype == torch.float32 else []):
                logits = torch.randn(shape, dtype=dtype, device=device)
                tolerance = 1e-4 if dtype != half else 2e-2
                for name, args in info.raw_calls(logits, noise_key(0, device)):
                    ours = getattr(getattr(torch.ops.dvae_kernels, name), backend)(*args)
                    theirs = getattr(info.reference, name)(*args)
                    if shared := info.shared_outputs.get(name):
                        ours, theirs = ours[:shared], theirs[:shared]
                    call = f"{name} {shape} {dtype}"
                    for result, expected in zip(tensors_of(ours), tensors_of(theirs), strict=True):
                        assert_close(result, expected, tolerance, call)
                    calls += 1
    print(f"{calls} calls agree with the reference")


def tensors_of(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (output,) if isinstance(output, Tensor) else output


def assert_close(result: Tensor, expected: Tensor, tolerance: float, call: str) -> None:
    """Within `tolerance` of the largest value: a gradient of small elements is a difference of large ones."""
    finite = expected[expected.isfinite()].abs()
    largest = max(1.0, finite.max().item()) if finite.numel() else 1.0
    torch.testing.assert_close(
        result, expected, rtol=tolerance, atol=tolerance * largest, equal_nan=True,
        msg=lambda text: f"{call}: {text}",
    )  # fmt: skip


def graph(backend: str, device: str) -> None:
    """A replayed graph draws fresh noise, and follows a key and inputs (tau among them) that are updated in place."""
    drawing = [op for op in OPS if op.draws]
    for op in drawing:
        inputs = {k: x.to(device, torch.float32).requires_grad_() for k, x in op.inputs((16, 300)).items()}
        key = noise_key(0, device)

        def run(op: Op = op, inputs: Inputs = inputs, **noise: Tensor) -> tuple[Tensor, ...]:
            y = op.call(inputs, backend, **noise)
            weight = torch.arange(y.numel(), device=y.device, dtype=y.dtype).reshape(y.shape).sin()
            return y.detach(), *torch.autograd.grad(y, tuple(inputs.values()), weight)

        replay = capture(run, device)
        samples = [replay()[0].clone() for _ in range(3)]
        for i in range(3):
            for j in range(i):
                assert not torch.equal(samples[i], samples[j]), f"{op}: two replays drew the same noise"

        keyed = partial(run, key=key)
        replay = capture(keyed, device)
        for offset in (1, 2):
            key[1] = offset
            with torch.no_grad():
                for x in inputs.values():
                    x.mul_(0.9)
            for ours, eager in zip([x.clone() for x in replay()], keyed()):
                assert torch.equal(ours, eager), f"{op}: a replay differs from the eager call with the same key"
    print(f"{len(drawing)} ops drew fresh noise in 3 replays, and followed key and inputs, forward and backward")


def capture(function: Callable[[], tuple[Tensor, ...]], device: str) -> Callable[[], tuple[Tensor, ...]]:
    """A CUDA graph of `function`; on CPU, for a dry run, the function itself."""
    if device == "cpu":
        return function
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # warm up: kernels are compiled and workspaces made outside the capture
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        outputs = function()

    def replay() -> tuple[Tensor, ...]:
        recorded.replay()
        return outputs

    return replay


def main() -> None:
    if sys.argv[1] == "stub":  # stands in for compute-sanitizer: runs the program it was given
        sys.exit(subprocess.call(sys.argv[sys.argv.index(sys.executable) :]))
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=("load", "small", "graph"))
    parser.add_argument("--backend", required=True)
    parser.add_argument("--device", required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    {"load": load, "small": small, "graph": graph}[args.step](args.backend, args.device)


if __name__ == "__main__":
    main()
