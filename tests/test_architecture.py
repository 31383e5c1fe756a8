"""Who may know whom (docs/design.md): imports by their syntax trees, includes and intrinsics by reading.

A rule takes a file's path in the repository and its text, and gives what it finds wrong. Each is also shown a file that
breaks it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "dvae_kernels"
ABOVE_OPS = ("nn", "losses", "swap", "info")
# by wall of an op, the walls of the same op that it may not know
UNKNOWN_WALLS = {
    "reference": {"schemas", "triton_kernels", "op", "composition"},
    "schemas": {"triton_kernels", "op", "composition"},
    "triton_kernels": {"reference", "op", "composition"},
    "op": {"triton_kernels"},
}

Rule = Callable[[PurePosixPath, str], Iterator[str]]


def imports(text: str) -> Iterator[str]:
    """Dotted names of all that is imported, wherever in the file: `from a import b` is a.b."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def ours(text: str) -> Iterator[list[str]]:
    """What is imported of the package, without the package's name."""
    yield from (name.split(".")[1:] for name in imports(text) if name.startswith(f"{PACKAGE}."))


def exists(*parts: str) -> bool:
    """Whether the package has a module or a folder of that name."""
    path = ROOT.joinpath(PACKAGE, *parts)
    return path.is_dir() or path.with_suffix(".py").exists()


def wall_of(name: list[str]) -> str | None:
    """The module of an op's folder that an imported name leads into; None for the op's public names."""
    return name[2] if name[0] == "ops" and len(name) > 2 and exists(*name[:3]) else None


def layers_of_the_package(path: PurePosixPath, text: str) -> Iterator[str]:
    layer = path.parts[1].removesuffix(".py")
    for name in ours(text):
        if layer.startswith("_") and layer != "__init__" and name[0] in ("ops", *ABOVE_OPS):
            yield f"a base module knows {name}"
        elif layer == "ops" and name[0] in ABOVE_OPS:
            yield f"an op knows {name}"
        elif layer in ABOVE_OPS and wall_of(name):
            yield f"{layer} knows more of an op than its public names: {name}"
        elif (layer, name[0]) in {("losses", "nn"), *((x, y) for x in ("nn", "losses") for y in ("swap", "info"))}:
            yield f"{layer} knows {name[0]}"
    for name in imports(text):
        if name.startswith("."):
            yield f"a relative import: {name}"


def walls_of_an_op(path: PurePosixPath, text: str) -> Iterator[str]:
    if path.parts[1] != "ops" or len(path.parts) < 4:
        return
    op, wall = path.parts[2], path.stem
    for name in ours(text):
        known = wall_of(name)
        if known is None:
            continue
        if name[1] == op:
            if known in UNKNOWN_WALLS.get(wall, ()):
                yield f"{wall} knows {known}"
        elif known != "schemas" and not (wall == known == "reference"):
            yield f"{wall} knows {known} of {name[1]}"


def no_private_names(path: PurePosixPath, text: str) -> Iterator[str]:
    yield from (f"a private name: {name}" for name in ours(text) if name[-1].startswith("_") and not exists(*name))


def no_collectives(path: PurePosixPath, text: str) -> Iterator[str]:
    if path.name == "_distributed.py":
        return
    names = [name for name in imports(text) if name.startswith("torch.distributed")]
    names += [ast.unparse(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
    yield from (f"a collective: {name}" for name in names if re.match(r"torch\.distributed\b|dist\.", name))


def the_public_face_only(path: PurePosixPath, text: str) -> Iterator[str]:
    yield from (f"not public: {name}" for name in ours(text) if name[0] == "ops" or name[-1].startswith("_"))


def no_op_in_the_kit(path: PurePosixPath, text: str) -> Iterator[str]:
    for name in imports(text):
        if name.startswith(("ops.", f"{PACKAGE}.ops")) or (name.startswith(PACKAGE) and "._" not in name):
            yield f"the kit knows {name}"


def code(text: str) -> str:
    """C++ without its comments."""
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)


def layers_of_csrc(path: PurePosixPath, text: str) -> Iterator[str]:
    folder = path.parts[1]
    known = {"common": ["common"], "simd": ["common", "simd"], "cuda": ["common", "cuda"]}.get(folder)
    for name in re.findall(r'#include "([^"]+)"', code(text)):
        other = name.split("/")[0]
        if known is not None:
            if other not in known:
                yield f"{folder} includes {name}"
        elif other not in ("common", "simd", "cuda", "torch", folder) and (
            folder == "torch" or not name.endswith("/tensors.h")
        ):
            yield f"{folder} includes {name}"


def intrinsics_in_simd(path: PurePosixPath, text: str) -> Iterator[str]:
    if path.parts[1] != "simd":
        yield from (f"an intrinsic: {name}" for name in re.findall(r"\b(?:_mm\d*_\w+|__m\d+\w*|immintrin)", code(text)))


def torch_in_its_place(path: PurePosixPath, text: str) -> Iterator[str]:
    if path.parts[1] != "torch" and path.name not in ("tensors.h", "cpu.cpp", "cuda.cu", "module_cpu.cpp"):
        yield from re.findall(
            r'#include [<"]torch/[^>"]+|\btorch::\w+|\b(?:STD|AOTI)_TORCH_\w+|\baoti_torch_\w+', code(text)
        )


def nothing_newer_than_the_oldest_torch(path: PurePosixPath, text: str) -> Iterator[str]:
    """What torch 2.11 does not have; only `make matrix` compiles with it."""
    newer = re.findall(r"STABLE_TORCH_ERROR_CODE_CHECK|\b(?:sizes|strides)\(\) *[!=]=", code(text))
    yield from (f"newer than torch 2.11: {name}" for name in newer)


PYTHON, EXAMPLES, BENCH, CSRC = f"{PACKAGE}/**/*.py", "examples/**/*.py", "bench/**/*.py", "csrc/**/*.*"
RULES: list[tuple[Rule, list[str]]] = [
    (layers_of_the_package, [PYTHON]),
    (walls_of_an_op, [PYTHON]),
    (no_private_names, [PYTHON]),
    (no_collectives, [PYTHON, EXAMPLES, BENCH]),
    (the_public_face_only, [EXAMPLES, BENCH]),
    (no_op_in_the_kit, ["tests/kit/*.py"]),
    (layers_of_csrc, [CSRC]),
    (intrinsics_in_simd, [CSRC]),
    (torch_in_its_place, [CSRC]),
    (nothing_newer_than_the_oldest_torch, [CSRC]),
]
OP = f"{PACKAGE}/ops/smoothing"
BROKEN: list[tuple[Rule, str, str]] = [
    (layers_of_the_package, f"{PACKAGE}/_rows.py", "def f():\n    from dvae_kernels.ops.codebook import code_sums"),
    (layers_of_the_package, f"{PACKAGE}/_triton/rows.py", "import dvae_kernels.ops.codebook.schemas"),
    (layers_of_the_package, f"{OP}/op.py", "from dvae_kernels import losses"),
    (layers_of_the_package, f"{OP}/op.py", "from dvae_kernels.nn import Schedule"),
    (layers_of_the_package, f"{OP}/op.py", "from . import reference"),
    (layers_of_the_package, f"{PACKAGE}/nn/schedule.py", "from dvae_kernels.ops.codebook import op"),
    (layers_of_the_package, f"{PACKAGE}/losses.py", "from dvae_kernels import nn"),
    (layers_of_the_package, f"{PACKAGE}/nn/schedule.py", "import dvae_kernels.info"),
    (walls_of_an_op, f"{OP}/triton_kernels.py", "from dvae_kernels.ops.smoothing import reference"),
    (walls_of_an_op, f"{OP}/reference.py", "from dvae_kernels.ops.smoothing.op import smoothing_transform"),
    (walls_of_an_op, f"{OP}/op.py", "from dvae_kernels.ops.gumbel_softmax.op import gumbel_softmax"),
    (walls_of_an_op, f"{OP}/op.py", "from dvae_kernels.ops.gumbel_softmax import reference"),
    (walls_of_an_op, f"{OP}/op.py", "import dvae_kernels.ops.smoothing.triton_kernels"),
    (no_private_names, f"{OP}/op.py", "from dvae_kernels._backend import _reasons"),
    (no_collectives, f"{PACKAGE}/nn/codebook.py", "import torch.distributed as dist"),
    (no_collectives, f"{PACKAGE}/nn/codebook.py", "import torch\ntorch.distributed.all_reduce(x)"),
    (the_public_face_only, "examples/train.py", "from dvae_kernels import _rng"),
    (the_public_face_only, "bench/cases/codebook.py", "from dvae_kernels.ops.codebook import code_sums"),
    (no_op_in_the_kit, "tests/kit/shim.py", "from dvae_kernels.ops.codebook import reference"),
    (no_op_in_the_kit, "tests/kit/shim.py", "from dvae_kernels import gumbel_softmax"),
    (no_op_in_the_kit, "tests/kit/shim.py", "from ops.codebook.cases import OPINFO"),
    (layers_of_csrc, "csrc/common/rows.h", '#include "simd/rows.h"'),
    (layers_of_csrc, "csrc/simd/rows.h", '#include "cuda/access.cuh"'),
    (layers_of_csrc, "csrc/cuda/access.cuh", '#include "torch/tensor.h"'),
    (layers_of_csrc, "csrc/torch/tensor.h", '#include "codebook/tensors.h"'),
    (layers_of_csrc, "csrc/smoothing/kernels.cuh", '#include "gumbel_softmax/kernels.cuh"'),
    (intrinsics_in_simd, "csrc/smoothing/cpu_kernels.h", "auto x = _mm256_add_ps(a, b);"),
    (intrinsics_in_simd, "csrc/smoothing/cpu_kernels.h", "__m512i x;"),
    (torch_in_its_place, "csrc/smoothing/kernels.cuh", '#include "torch/tensor.h"'),
    (torch_in_its_place, "csrc/simd/rows.h", "torch::stable::parallel_for(0, n, 1, f);"),
    (nothing_newer_than_the_oldest_torch, "csrc/torch/tensor.h", "STABLE_TORCH_ERROR_CODE_CHECK(call());"),
    (nothing_newer_than_the_oldest_torch, "csrc/torch/tensor.h", "if (x.sizes() == y.sizes()) {"),
]


def name_of(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.mark.parametrize("rule, files", RULES, ids=name_of)
def test_the_repository_keeps(rule: Rule, files: list[str]) -> None:
    paths = [path for pattern in files for path in sorted(ROOT.glob(pattern)) if path.suffix not in (".so", ".md")]
    assert paths
    found = []
    for path in paths:
        place = PurePosixPath(path.relative_to(ROOT).as_posix())
        found += [f"{place}: {what}" for what in rule(place, path.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("rule, path, text", BROKEN, ids=name_of)
def test_a_violation_is_seen(rule: Rule, path: str, text: str) -> None:
    assert list(rule(PurePosixPath(path), text))
