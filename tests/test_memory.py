"""Peak memory: the output, the gradient and O(1) per row; and nothing written outside."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from dvae_kernels import categorical_kl, gumbel_softmax, gumbel_softmax_embed, vector_quantize
from kit.targets import Target

ROWS, K = 256, 4096
TENSOR = ROWS * K * 4  # bytes


def peak_and_final(events: list[int]) -> tuple[int, int]:
    total = peak = 0
    for size in events:
        total += size
        peak = max(peak, total)
    return peak, total


def allocations(run: object) -> list[int]:
    """Sizes of torch's CPU allocations (positive) and releases (negative), in order."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()  # type: ignore[operator]
    return [event.nbytes() for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]


def training_step(backend: str, hard: bool, tau: Tensor | float, device: str = "cpu") -> object:
    logits = torch.randn(ROWS, K, device=device, requires_grad=True)
    key = torch.tensor([1, 2], device=device)
    grad = torch.randn(ROWS, K, device=device)

    def run() -> None:
        y = gumbel_softmax(logits, tau, hard, key=key, backend=backend)
        torch.autograd.grad(y, logits, grad)

    return run


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
def test_torch_allocates_output_and_gradient_only(hard: bool) -> None:
    target = Target("cpp", "cpu")
    if reason := target.why_not():
        pytest.skip(f"{target}: {reason}")
    run = training_step("cpp", hard, torch.tensor(0.5, requires_grad=True))
    run()  # type: ignore[operator]
    peak, final = peak_and_final(allocations(run))
    assert final == 0, "something stays allocated"
    assert 2 * TENSOR <= peak <= 2 * TENSOR + 16 * ROWS + 4096
    # the instrument sees what plain torch needs
    reference, _ = peak_and_final(allocations(training_step("reference", hard, 0.5)))
    assert reference > 6 * TENSOR


@pytest.mark.parametrize("with_prior", [False, True], ids=["uniform", "prior"])
def test_the_kl_allocates_its_gradients_and_no_more_per_row_than_its_result(with_prior: bool) -> None:
    target = Target("cpp", "cpu")
    if reason := target.why_not():
        pytest.skip(f"{target}: {reason}")
    leaves = [torch.randn(ROWS, K, requires_grad=True) for _ in range(1 + with_prior)]
    grad = torch.randn(ROWS)

    def run(backend: str = "cpp") -> None:
        prior = leaves[1] if with_prior else None
        torch.autograd.grad(categorical_kl(leaves[0], prior=prior, backend=backend), leaves, grad)

    run()
    gradients = len(leaves) * TENSOR
    peak, final = peak_and_final(allocations(run))
    assert final == 0
    assert gradients <= peak <= gradients + 16 * ROWS + 4096
    assert peak_and_final(allocations(lambda: run("reference")))[0] > gradients + TENSOR


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
def test_an_embedding_allocates_no_product_of_rows_and_categories(hard: bool) -> None:
    """Forward, a hard one takes the index and the embedding, a soft one the sample besides. Backward, dlogits and the
    codebook's gradient. Blocks of rows, of a fixed size, take less than half of these logits."""
    target = Target("cpp", "cpu")
    if reason := target.why_not():
        pytest.skip(f"{target}: {reason}")
    rows, k, width = 2048, 4096, 16
    logits = torch.randn(rows, k, requires_grad=True)
    codebook = torch.randn(k, width, requires_grad=True)
    grad = torch.randn(rows, width)
    key = torch.tensor([1, 2])
    tensor, small = rows * k * 4, rows * k * 2

    def forward() -> Tensor:
        return gumbel_softmax_embed(logits, codebook, 0.7, hard, key=key, backend="cpp")[0]

    def product() -> Tensor:
        return torch.nn.functional.gumbel_softmax(logits, 0.7, hard) @ codebook

    def run(embedding: Callable[[], Tensor] = forward) -> None:
        torch.autograd.grad(embedding(), (logits, codebook), grad)

    run()
    samples = 0 if hard else tensor
    kept: list[Tensor] = []
    peak, _ = peak_and_final(allocations(lambda: kept.append(forward())))
    assert samples <= peak <= samples + small
    peak, final = peak_and_final(allocations(run))
    assert final == 0
    assert samples + tensor <= peak <= samples + tensor + small
    assert peak_and_final(allocations(lambda: run(product)))[0] > samples + 2 * tensor


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["nearest", "drawn"])
@pytest.mark.parametrize(
    ("dtype", "kept", "learning"),
    [(torch.float32, 1.0, False), (torch.float32, 1.0, True), (torch.bfloat16, 1.5, False)],
    ids=["float32", "learning", "bfloat16"],
)
def test_quantizing_allocates_no_product_of_rows_and_codes(
    dtype: torch.dtype, kept: float, learning: bool, temperature: float
) -> None:
    """Kept for backward: the rows of x, which exist, and the quantized ones; where these have another dtype than the
    codebook, the codes too (`kept`, in rows of float32). Backward makes dx and, where the codebook learns, a gradient
    to the code of each row."""
    target = Target("cpp", "cpu")
    if reason := target.why_not():
        pytest.skip(f"{target}: {reason}")
    rows, k, width = 8192, 2048, 32
    tensor, small = rows * width * 4, 24 * rows
    x, codebook = torch.randn(rows, width).to(dtype).requires_grad_(), torch.randn(k, width, requires_grad=learning)
    leaves = (x, codebook) if learning else (x,)
    results: list[tuple[Tensor, Tensor]] = []

    def forward() -> tuple[Tensor, Tensor]:
        options = {"codebook_weight": float(learning), "temperature": temperature}
        quantized, _, loss = vector_quantize(x, codebook, **options, backend="cpp")  # type: ignore[arg-type]
        return quantized, loss

    def run() -> None:
        torch.autograd.grad(forward(), leaves, (x, torch.ones(())))

    run()
    _, left = peak_and_final(allocations(lambda: results.append(forward())))
    peak, final = peak_and_final(allocations(run))
    assert final == 0
    assert kept * tensor <= left <= kept * tensor + 16 * rows
    # dx, the codes' gradients with their sums by code, and a block of scores
    assert peak <= (kept + 1 + 1.75 * learning) * tensor + small + (1 << 22) * (temperature > 0)


@pytest.mark.gpu
@pytest.mark.parametrize("overload", ["triton", "cuda"], ids=["triton-cuda", "cuda-cuda"])
def test_gpu_peak_memory(overload: str) -> None:
    target = Target(overload, "cuda")
    if reason := target.why_not():
        pytest.skip(f"{target}: {reason}")
    run = training_step(overload, True, 0.5, "cuda")
    run()  # type: ignore[operator]
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()  # type: ignore[operator]
    extra = torch.cuda.max_memory_allocated() - before
    assert 2 * TENSOR <= extra <= 2 * TENSOR + 16 * ROWS + 65536


def run_script(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
    )


def test_process_peak_memory() -> None:
    """The kernels' own scratch, which torch's allocator does not see: the high-water mark of the whole process."""
    target = Target("cpp", "cpu")
    if reason := target.why_not():
        pytest.skip(f"{target}: {reason}")
    script = """
        import resource, torch
        from dvae_kernels import gumbel_softmax, nearest_code
        key = torch.tensor([1, 2])
        torch.set_num_threads(2)
        x, codes = torch.randn(16384, 8), torch.randn(8192, 8)
        nearest_code(x[:64], codes, backend="cpp")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        nearest_code(x, codes, backend="cpp")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

        def step(rows, k):
            logits = torch.zeros(rows, k, requires_grad=True)
            grad = torch.zeros(rows, k)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            y = gumbel_softmax(logits, 0.5, True, key=key, backend="cpp")
            torch.autograd.grad(y, logits, grad)
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

        step(8, 8192)
        logits = torch.zeros(4096, 8192)
        logits.add_(1)
        del logits
        print(step(4096, 8192))
    """
    result = run_script(script)
    assert result.returncode == 0, result.stderr
    search, extra = (int(line) * 1024 for line in result.stdout.split())
    assert search <= 16384 * 8192 * 4 / 16, "something of the size of all distances"
    tensor = 4096 * 8192 * 4  # 128 MiB
    # torch.zeros leaves the pages of `logits` and `grad` unwritten; output and gradient are written
    assert extra <= 2.1 * tensor


HEAP_CHECKED = """
    import ctypes, itertools, sys, torch
    from dvae_kernels import gumbel_softmax, nearest_code_scores

    key = torch.tensor([1, 2])
    if sys.argv[1:] == ["overrun"]:
        x = torch.zeros(100)
        ctypes.memset(x.data_ptr() + x.nbytes, 1, 1)
        del x
        torch.zeros(100)
        sys.exit(0)
    from dvae_kernels._dtypes import FLOATS as dtypes
    for k, dtype, hard in itertools.product((1, 2, 3, 7, 8, 15, 17, 31, 33, 65, 129, 1031), dtypes, (False, True)):
        for shape, dim in (((3, k), 1), ((k, 3), 0), ((2, k, 5), 1)):
            logits = torch.randn(shape).to(dtype).requires_grad_()
            tau = torch.tensor(0.5, requires_grad=True)
            y = gumbel_softmax(logits, tau, hard, dim=dim, key=key, backend="cpp")
            y.sum().backward()
        for d in (1, 2, 5, 16, 33):
            nearest_code_scores(torch.randn(7, d).to(dtype), torch.randn(k, d).to(dtype), backend="cpp")
"""


def test_nothing_is_written_outside() -> None:
    """Under the C library's checking allocator, which aborts when a byte after an allocation was overwritten."""
    target = Target("cpp", "cpu")
    if reason := target.why_not():
        pytest.skip(f"{target}: {reason}")
    library = "libc_malloc_debug.so.0"
    try:
        ctypes.CDLL(library)
    except OSError:
        pytest.skip(f"{library} is not installed")
    checked = {"LD_PRELOAD": library, "MALLOC_CHECK_": "3"}
    overrun = HEAP_CHECKED.replace("sys.argv[1:]", '["overrun"]')
    assert run_script(overrun, **checked).returncode < 0, "the check itself does not work"
    result = run_script(HEAP_CHECKED, **checked)
    assert result.returncode == 0, result.stderr
