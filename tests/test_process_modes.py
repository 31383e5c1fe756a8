"""What the process is set to: the treatment of subnormal numbers, and limits of memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from dvae_kernels import _backend, binary_concrete, categorical_kl, gumbel_softmax, nearest_code, vector_quantize
from kit.targets import Target

SMALL = 1e-39  # below float32's least normal number
GENERATOR = torch.Generator().manual_seed(0)
ROWS, CODES = torch.randn(20_000, 8, generator=GENERATOR) * SMALL, torch.randn(100, 8, generator=GENERATOR) * SMALL
LOGITS = torch.randn(4000, 200, generator=GENERATOR) * 40
CALLS: dict[str, Callable[[], Tensor]] = {
    "nearest_code": lambda: nearest_code(ROWS, CODES, backend="cpp"),
    "vector_quantize": lambda: vector_quantize(ROWS, CODES, backend="cpp").quantized,
    "gumbel_softmax": lambda: gumbel_softmax(LOGITS, seed=1, backend="cpp"),
    "gumbel_softmax interleaved": lambda: gumbel_softmax(LOGITS, seed=1, dim=0, backend="cpp"),
    "gumbel_softmax few rows": lambda: gumbel_softmax(LOGITS.reshape(1, -1), seed=1, backend="cpp"),
    "binary_concrete": lambda: binary_concrete(LOGITS - 80, 1.0, seed=1, backend="cpp"),
    "categorical_kl": lambda: categorical_kl(LOGITS * SMALL, backend="cpp"),
}


@pytest.fixture
def modes() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("modes")
@pytest.mark.parametrize("name", CALLS)
def test_flushing_subnormal_numbers_changes_no_bit(name: str) -> None:
    """torch sets the calling thread alone: else results would depend on the number of threads."""
    target = Target("cpp", "cpu")
    if reason := target.why_not():
        pytest.skip(f"{target}: {reason}")
    right = CALLS[name]()
    subnormal = torch.tensor(SMALL)
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU has no such mode")
    for threads in (2, 1):
        torch.set_num_threads(threads)
        ours = CALLS[name]()
        assert (subnormal * 1).item() == 0, "the caller's mode stays as it was"
        torch.set_flush_denormal(False)  # comparing flushes too
        assert torch.equal(ours, right)
        torch.set_flush_denormal(True)


OUT_OF_MEMORY = """
import re, resource, torch
from dvae_kernels import gumbel_softmax
gumbel_softmax(torch.randn(2, 4096), backend="cpp")
size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20),) * 2)
try:
    gumbel_softmax(torch.zeros(1).expand(40000, 4096), backend="cpp")
except RuntimeError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
def test_out_of_memory_has_torchs_text() -> None:
    """With the size, by which finders of batch sizes know it. Older versions of torch do not hand it out."""
    if reason := _backend.why_not("cpp", "cpu"):
        pytest.skip(reason)
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 13):
        pytest.skip("torch tells the text of its errors from 2.13 on")
    result = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, check=True)
    assert "DefaultCPUAllocator: can't allocate memory: you tried to allocate 655360000 bytes" in result.stdout
