"""The steps of gpu.py that are Python of our own; each runs in a process of its own.

python tools/gpu_steps.py small --backend cuda --device cuda
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from dvae_kernels import _backend, _extension, gumbel_softmax

# (shape, dim): tails of blocks, an inner dimension, one category, a row wider than a block, nothing
SMALL = [((5, 70), 1), ((2, 33, 3, 5), 1), ((4, 1), 1), ((2, 5000), 1), ((0, 8), 1)]


def load(backend: str, device: str) -> None:
    """Exit with the reason unless a carried or built module loads."""
    reason = _backend.why_not(backend, device)
    built = _extension.build_info("_C_cuda" if backend == "cuda" else "_C")
    print(reason or f"built with {built.get('compiler')} for torch {built.get('torch')}, archs {built.get('archs')}")
    sys.exit(bool(reason))


def small(backend: str, device: str) -> None:
    """Every kernel on small shapes against the reference: what the sanitizer watches. Contract tests judge accuracy."""
    half = torch.float16 if device == "cpu" else torch.bfloat16  # the interpreter is unreliable in bfloat16
    calls = 0
    for dtype in (torch.float32, torch.float64, half):
        for shape, dim in SMALL:
            for hard in (False, True):
                logits = torch.randn(shape, dtype=dtype, device=device)
                grad = torch.randn_like(logits)
                results = [sample_and_grad(logits, grad, dim, hard, name) for name in (backend, "reference")]
                tolerance = 1e-4 if dtype != half else 2e-2
                for ours, expected in zip(*results):
                    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)
                calls += 1
    print(f"{calls} calls agree with the reference")


def sample_and_grad(logits: Tensor, grad: Tensor, dim: int, hard: bool, backend: str) -> tuple[Tensor, ...]:
    leaf = logits.clone().requires_grad_()
    tau = torch.tensor(0.7, dtype=torch.float64, device=logits.device, requires_grad=True)
    y = gumbel_softmax(leaf, tau, hard, dim=dim, seed=11, backend=backend)
    return (y.detach(), *torch.autograd.grad(y, (leaf, tau), grad))


def graph(backend: str, device: str) -> None:
    """A replayed graph draws fresh noise, and follows key and tau tensors that are updated in place."""
    logits = torch.randn(16, 300, device=device, requires_grad=True)
    grad = torch.randn(16, 300, device=device)
    key = torch.tensor([5, 0], device=device)
    tau = torch.tensor(1.0, device=device)

    def drawn() -> tuple[Tensor, ...]:
        y = gumbel_softmax(logits, tau, hard=True, backend=backend)
        return y, *torch.autograd.grad(y, logits, grad)

    def keyed() -> tuple[Tensor, ...]:
        y = gumbel_softmax(logits, tau, key=key, backend=backend)
        return y, *torch.autograd.grad(y, logits, grad)

    replay = capture(drawn, device)
    samples = [tuple(x.clone() for x in replay()) for _ in range(3)]
    for i in range(3):
        for j in range(i):
            assert not torch.equal(samples[i][0], samples[j][0]), "two replays drew the same noise"
            assert not torch.equal(samples[i][1], samples[j][1]), "two replays had the same gradient"

    replay = capture(keyed, device)
    for offset, temperature in ((1, 1.0), (2, 0.5)):
        key[1] = offset
        tau.fill_(temperature)
        replayed = [x.clone() for x in replay()]
        for ours, eager in zip(replayed, keyed()):
            assert torch.equal(ours, eager), "a replay differs from the eager call with the same key and tau"
    print("fresh noise in 3 replays; key and tau followed, forward and backward")


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
