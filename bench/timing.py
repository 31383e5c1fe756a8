"""Times of several functions in one run: interleaved, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Function = Callable[[], object]
FLUSH_BYTES = 1 << 28  # more than any GPU's L2
BLOCK_SECONDS = 2e-2  # shorter calls on the CPU are timed in blocks of this length, as torch.utils.benchmark does


@dataclass(frozen=True)
class Series:
    """Seconds per call, in the order of the rounds."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def iqr(self) -> float:
        if len(self.seconds) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return third - first


def interleave(functions: dict[str, Function], device: torch.device, *, budget: float, most: int) -> dict[str, Series]:
    """Run A, B, C, A, B, C, ... after one warm-up round, for about `budget` seconds and from 3 to `most` rounds.

    CUDA calls are timed by events behind a write to memory larger than L2: inputs come from memory, and the launch
    is queued before the GPU gets to it. Short calls are repeated inside one time, back to back, so that every contender
    runs with its threads awake and its own data in cache.
    """
    timer = _CudaTimer() if device.type == "cuda" else CpuTimer()
    started = time.perf_counter()
    repeats = {}
    for name, function in functions.items():
        function()  # compiles, fills caches
        repeats[name] = timer.repeats(function)
    per_round = time.perf_counter() - started
    started = time.perf_counter()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for done in range(most):
        if done >= 3 and time.perf_counter() - started + per_round > budget:
            break
        before = time.perf_counter()
        for name, function in functions.items():
            seconds[name].append(timer.time(function, repeats[name]))
        per_round = time.perf_counter() - before
    return {name: Series(times) for name, times in seconds.items()}


class CpuTimer:
    def repeats(self, function: Function) -> int:
        return max(1, int(BLOCK_SECONDS / min(self.time(function, 1) for _ in range(3))))

    def time(self, function: Function, repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        return (time.perf_counter() - start) / repeats


class _CudaTimer:
    def __init__(self) -> None:
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def repeats(self, function: Function) -> int:
        # what takes the GPU less time than its launch takes the CPU is timed as a stream of calls
        return 100 if min(self.time(function, 1) for _ in range(3)) < 2e-5 else 1

    def time(self, function: Function, repeats: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        start.record()
        for _ in range(repeats):
            function()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3 / repeats


def reserve(like: torch.Tensor, blocks: int = 8) -> torch.Tensor:
    """Make the CPU allocator keep memory of this size for the calls to come, for as long as the result is alive.

    glibc maps a large block afresh at every allocation until one was freed, and gives the top of its heap back: so
    free one, then free several below a block that stays.
    """
    torch.empty_like(like)
    kept = [torch.empty_like(like) for _ in range(blocks)]
    pin = torch.empty(1024)
    del kept
    return pin
