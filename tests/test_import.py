"""`import dvae_kernels` on machines that lack triton, the compiled modules, or both: silent, light and working."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCK = """
import importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {roots!r} or name in {names!r}:
            raise ModuleNotFoundError("blocked: " + name, name=name)

sys.meta_path.insert(0, Block())
"""
NO_TRITON = BLOCK.format(roots=("triton",), names=())
NO_EXTENSIONS = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name.startswith("dvae_kernels._C") else find_spec(name, *a)
"""
BARE = NO_TRITON + NO_EXTENSIONS


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


@pytest.mark.parametrize("world", ["", NO_TRITON, NO_EXTENSIONS, BARE], ids=["all", "no triton", "no _C", "bare"])
def test_import_is_silent_and_does_not_load_triton(world: str) -> None:
    run(f"""{world}
import sys
import torch  # torch may import triton for itself; what counts is what we add
before = set(sys.modules)
import dvae_kernels
added = set(sys.modules) - before
assert not any(name.split(".")[0] == "triton" for name in added), added
assert not any(name.startswith("torch._dynamo") or name.startswith("torch._inductor") for name in added), added
""")


def test_bare_import_computes_with_the_reference() -> None:
    """The same noise with and without the compiled module; a named backend raises with every reason."""
    sample = """
import torch, dvae_kernels
print(dvae_kernels.gumbel_softmax(torch.arange(40.).reshape(2, 20) / 10, hard=True, seed=3).argmax(-1).tolist())
"""
    assert run(BARE + sample) == run(sample)
    run(f"""{BARE}
import torch, dvae_kernels
for backend in ("cpp", "triton"):
    try:
        dvae_kernels.gumbel_softmax(torch.zeros(2, 3), backend=backend)
    except dvae_kernels.BackendUnavailable as error:
        for name in ("cpp: ", "triton: ", "cuda: ", "reference: available"):
            assert name in str(error), error
        assert "dvae_kernels._C is not built" in str(error)
    else:
        raise AssertionError(backend + " ran without its module")
""")


def test_triton_that_cannot_be_imported_is_named() -> None:
    run(f"""
import os
os.environ["TRITON_INTERPRET"] = "1"
{NO_TRITON}
from dvae_kernels import _backend
reason = _backend.why_not("triton", "cpu")
assert "blocked: triton" in reason and "dvae_kernels[triton]" in reason, reason
""")


def test_public_names_exist_and_nothing_else_is_public() -> None:
    import dvae_kernels

    names = dvae_kernels.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name.lower())), "constants, then the others"
    for name in dvae_kernels.__all__:
        assert getattr(dvae_kernels, name).__doc__, name


def test_a_second_import_after_a_purge_of_sys_modules() -> None:
    """A deep reload in a notebook, test isolation, plugin hosts."""
    run("""
import gc, sys, torch, dvae_kernels
first = dvae_kernels.gumbel_softmax(torch.zeros(2, 3), hard=True, seed=1)
for name in [name for name in sys.modules if name.startswith("dvae_kernels")]:
    del sys.modules[name]
del dvae_kernels
gc.collect()
import dvae_kernels
assert torch.equal(first, dvae_kernels.gumbel_softmax(torch.zeros(2, 3), hard=True, seed=1))
""")


def test_blocks_of_use_backend_that_overlap_in_two_threads() -> None:
    import threading

    from dvae_kernels import _backend, use_backend

    before = _backend._forced
    first_is_in, second_is_in = threading.Event(), threading.Event()

    def first() -> None:
        with use_backend("reference"):
            first_is_in.set()
            second_is_in.wait()

    def second() -> None:
        first_is_in.wait()
        with use_backend("cpp"):
            second_is_in.set()
            threads[0].join()
            assert _backend._forced == "cpp"

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _backend._forced == before
