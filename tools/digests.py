"""Digests of every raw op's outputs over a fixed battery of calls: whether a change left all results as they were.

    python tools/digests.py record FILE [--part PART ...] [--ops PREFIX ...]
    python tools/digests.py compare A B           # the cases that differ, and exit status 1 if there are any
    python tools/digests.py compact FILE GOLDEN   # one digest for each part, op and dtype; compare takes it too

Parts: cpp (every instruction set, with one and two threads), reference, triton (in the interpreter) and cuda-shim (the
CUDA kernels compiled for the CPU); the last two run a smaller battery. The package is the one that Python finds, so
PYTHONPATH chooses the checkout; cuda-shim takes the shims of the same checkout.

Equal digests mean equal bits, strides and dtypes; NaN are alike. Results of torch's own functions and of matrix
products depend on torch's version and on the CPU, so recordings are compared on one machine.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import inspect
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from digest_cases import CASES, cases_of
from digest_inputs import all_types

PARTS = ("cpp", "reference", "triton", "cuda-shim")
CAPABILITIES = ("avx512_vnni", "avx512", "avx2", "baseline")
# Composed of other ops and of torch in the same way for every backend: cuda-shim leaves them out.
COMPOSED = ("sample_codes", "gumbel_softmax_embed_fwd", "gumbel_softmax_embed_bwd")
NO_RAW_OPS = ("ema_update_",)
# The rooms that may hold an op's shim, by the first prefix that fits, here and in older commits.
SHIM_ROOMS = {
    "gumbel_softmax_log_prob": ("gumbel_softmax_log_prob", "categorical"),
    "gumbel_rao": ("hard_estimators", "straight_through"),
    "gumbel_": ("gumbel_softmax",),
    "reinmax": ("hard_estimators", "straight_through"),
    "categorical_kl": ("categorical_kl", "categorical"),
    "binary_concrete": ("binary_concrete",),
    "smoothing": ("smoothing",),
    "gather_codes": ("codebook",),
    "code_": ("codebook",),
    "nearest_code": ("nearest_code",),
    "vector_quantize": ("vector_quantize",),
}
THREADED = 1024  # elements: fewer make no second thread
SHOWN = 20  # differing cases of an op
Digests = dict[str, dict[str, dict[str, str]]]  # by part, op and case
Function = Callable[..., Any]


def digest(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return " ".join(map(digest, value))
    assert isinstance(value, Tensor)
    x = value.detach()
    strides = [stride if size > 1 else 0 for size, stride in zip(x.shape, x.stride())] if x.numel() else []
    if x.is_floating_point():
        x = torch.where(x == x, x, torch.nan)
    data = x.contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.sha256(repr((x.dtype, tuple(x.shape), strides)).encode() + data.tobytes()).hexdigest()[:12]


def outcome(function: Function, args: tuple[Any, ...]) -> str:
    try:
        return digest(function(*args))
    except (RuntimeError, ValueError, IndexError) as error:
        return f"raises {type(error).__name__}"


# What may be named otherwise in another commit.


def overload(op: str, backend: str) -> Function:
    return getattr(getattr(torch.ops.dvae_kernels, op), backend)


def adapted(op: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments as the schema takes them: the metric was once a bool, and a temperature never a tensor."""
    if op in NO_RAW_OPS:
        return args
    schema = overload(op, "cpp")._schema
    names = [argument.name for argument in schema.arguments]
    if len(args) > len(names):
        args = tuple(value for value in args if value is not None)
    return tuple(value == "cosine" if name == "cosine" else value for name, value in zip(names, args))


def reference(op: str) -> Function:
    """The function of that name in the room where it is defined."""
    import dvae_kernels.ops

    if op == "ema_update_":
        return ema_update
    for room in pkgutil.iter_modules(dvae_kernels.ops.__path__, "dvae_kernels.ops."):
        if room.ispkg and (Path(room.module_finder.path) / room.name.split(".")[-1] / "reference.py").exists():
            module = importlib.import_module(f"{room.name}.reference")
            function = getattr(module, op, None)
            if function is not None and function.__module__ == module.__name__:
                return function
    raise LookupError(f"no reference of {op}")


def ema_update(*args: Any) -> list[Tensor]:
    from dvae_kernels import ema_update_

    *tensors, options = args
    tensors = [x.clone() for x in tensors]
    ema_update_(*tensors, **options)
    return tensors


def shims(tree: Path, ops: list[str]) -> Iterator[dict[str, Function]]:
    """The functions of `ops` by name, from one room's shim after the other, each while it stands.

    A shim module has a fixture `shim`, which registers the `cuda` overloads of CPU tensors or has a method for each.
    """
    sys.path[:0] = [str(tree / "tests"), str(tree / "tests" / "shim")]
    wanted: dict[str, list[str]] = {}
    for op in ops:
        if op not in COMPOSED and op not in NO_RAW_OPS:
            for room in next(rooms for prefix, rooms in SHIM_ROOMS.items() if op.startswith(prefix)):
                wanted.setdefault(room, []).append(op)
    for room, its_ops in wanted.items():
        places = (tree / "tests" / "ops" / room / "test_shim.py", tree / "tests" / "shim" / f"test_shim_{room}.py")
        file = next(filter(Path.exists, places), None)
        if file is None:
            continue
        spec = importlib.util.spec_from_file_location(f"shim_of_{room}", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        fixture = inspect.unwrap(module.shim)()
        running = inspect.isgenerator(fixture)
        shim = next(fixture) if running else fixture
        yield {op: offered(shim, op) for op in its_ops}
        if running:
            next(fixture, None)


def search(shim: Any, takes_bool: bool, x: Tensor, codebook: Tensor, metric: str | bool, *_: Any) -> Any:
    cosine = metric in (True, "cosine")
    return shim(x, codebook, cosine if takes_bool else "cosine" if cosine else "l2")


def offered(shim: Any, op: str) -> Function:
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"dvae_kernels::{op}.cuda", "CPU"):
        return overload(op, "cuda")
    if hasattr(shim, op):
        return getattr(shim, op)
    if op == "nearest_code":
        return partial(search, shim, "cosine" in inspect.signature(shim.__call__).parameters)
    return getattr(shim, op.rpartition("_")[2])


# Recording.


def run_cases(op: str, function: Function, small: bool) -> dict[str, str]:
    every = (case for types in all_types(small) for case in cases_of(op, types))
    return {name: outcome(function, adapted(op, args)) for name, args in every}


def record_cpp(ops: list[str]) -> Digests:
    from dvae_kernels import _extension

    if reason := _extension.load("_C"):
        raise SystemExit(reason)
    capability = torch.ops.dvae_kernels.cpu_capability
    best = CAPABILITIES.index(capability(None))
    settings = [(name, threads) for name in CAPABILITIES[best:] for threads in (1, 2)]
    digests: Digests = {f"cpp {name} {threads}": {} for name, threads in settings}
    for op in ops:
        if op in NO_RAW_OPS:
            continue
        for types in all_types(False):
            cases = [(name, adapted(op, args)) for name, args in cases_of(op, types)]
            for name, threads in settings:
                if name == "avx512_vnni" and op != "nearest_code":
                    continue  # the kernels of avx512
                capability(name)
                torch.set_num_threads(threads)
                results = digests[f"cpp {name} {threads}"].setdefault(op, {})
                results.update(
                    (case, outcome(overload(op, "cpp"), args)) for case, args in cases if threads == 1 or large(args)
                )
    capability(CAPABILITIES[best])
    return digests


def large(args: tuple[Any, ...]) -> bool:
    """Whether a call may be split among threads."""
    return max(x.numel() for x in args if isinstance(x, Tensor)) >= THREADED


def record_reference(ops: list[str]) -> Digests:
    return {"reference": {op: run_cases(op, reference(op), False) for op in ops}}


def record_triton(ops: list[str]) -> Digests:
    return {"triton": {op: run_cases(op, overload(op, "triton"), True) for op in ops if op not in NO_RAW_OPS}}


def record_shim(ops: list[str]) -> Digests:
    import dvae_kernels

    results: dict[str, dict[str, str]] = {}
    for functions in shims(Path(dvae_kernels.__file__).parents[1], ops):
        for op, function in functions.items():
            results[op] = run_cases(op, function, True)
    return {"cuda-shim": results}


RECORDERS = {"cpp": record_cpp, "reference": record_reference, "triton": record_triton, "cuda-shim": record_shim}


def record(file: Path, parts: list[str], prefixes: list[str]) -> int:
    """Each part in a process of its own: the interpreter has to be chosen before Triton is imported."""
    ops = [op for op in CASES if not prefixes or op.startswith(tuple(prefixes))]
    if not ops:
        raise SystemExit(f"no op starts with {' or '.join(prefixes)}; there are {', '.join(CASES)}")
    digests: Digests = {}
    for part in parts:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "digests.json"
            env = {**os.environ, "TRITON_INTERPRET": "1" if part == "triton" else "0", "OMP_WAIT_POLICY": "passive"}
            command = [sys.executable, __file__, "part", str(output), part, *ops]
            if status := subprocess.run(command, env=env).returncode:
                return status
            new: Digests = json.loads(output.read_text())
        digests.update(new)
        count = sum(len(cases) for by_op in new.values() for cases in by_op.values())
        print(f"{part}: {count} digests, {time.monotonic() - started:.0f} s", flush=True)
    made_with = {"torch": torch.__version__, "torch's CPU capability": torch.backends.cpu.get_cpu_capability()}
    selection = {"parts": parts, "ops": ops}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"made with": made_with, "selection": selection, "digests": digests}, indent=0))
    return 0


def record_part(file: Path, part: str, ops: list[str]) -> int:
    import dvae_kernels  # noqa: F401

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the interpreter's arithmetic with NaN
    defined = {name.partition("::")[2].partition(".")[0] for name in torch._C._dispatch_get_all_op_names()
               if name.startswith("dvae_kernels::")}  # fmt: skip
    if missing := sorted(defined - set(CASES) - {"cpu_capability"}):
        print(f"no cases for {', '.join(missing)}")
    file.write_text(json.dumps(RECORDERS[part](ops)))
    return 0


# Comparing.


def compacted(digests: Digests) -> Digests:
    """One digest for all cases of an op and a dtype, and how many they are."""
    result: Digests = {}
    for part, by_op in digests.items():
        for op, cases in by_op.items():
            groups: dict[str, list[str]] = {}
            for name, value in sorted(cases.items()):
                groups.setdefault(name.split(" ")[0], []).append(f"{name}: {value}\n")
            result.setdefault(part, {})[op] = {
                group: f"{hashlib.sha256(''.join(lines).encode()).hexdigest()[:12]} of {len(lines)} cases"
                for group, lines in groups.items()
            }
    return result


def compact(file: Path, golden: Path) -> int:
    recording = json.loads(file.read_text())
    sets = [part.split(" ")[1] for part in recording["digests"] if part.startswith("cpp") and part.endswith("1")]
    needs = f"torch {recording['made with']['torch']} on a CPU with {', '.join(sets)}; others give other digests"
    recording = {"compact": True, "needs": needs, **recording, "digests": compacted(recording["digests"])}
    golden.write_text(json.dumps(recording, indent=1) + "\n")
    return 0


def compare(first: Path, second: Path) -> int:
    """Of what both have selected. Exit status 1 where a digest differs, or a case is in one recording alone."""
    a, b = (json.loads(path.read_text()) for path in (first, second))
    if a["made with"] != b["made with"]:
        print(f"made with {a['made with']} and {b['made with']}: the reference may differ for that alone")
    if a.get("compact") != b.get("compact"):
        for recording in (a, b):
            recording["digests"] = recording["digests"] if recording.get("compact") else compacted(recording["digests"])
    parts, ops = (set(a["selection"][key]) & set(b["selection"][key]) for key in ("parts", "ops"))
    equal = differing = 0
    for part in sorted(a["digests"].keys() | b["digests"].keys()):
        if part.split(" ")[0] not in parts:
            continue
        one, other = (recording["digests"].get(part, {}) for recording in (a, b))
        for op in sorted(ops & (one.keys() | other.keys())):
            ours, theirs = one.get(op, {}), other.get(op, {})
            names = list(dict.fromkeys([*ours, *theirs]))
            wrong = [name for name in names if ours.get(name) != theirs.get(name)]
            equal, differing = equal + len(names) - len(wrong), differing + len(wrong)
            if wrong:
                print(f"{part}, {op}: {len(wrong)} of {len(names)} differ")
            for name in wrong[:SHOWN]:
                print(f"    {name}: {ours.get(name, 'missing')} | {theirs.get(name, 'missing')}")
    print(f"{equal} equal, {differing} different")
    return 1 if differing or not equal else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("record")
    command.add_argument("file", type=Path)
    command.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    command.add_argument("--ops", nargs="+", default=[], metavar="PREFIX", help="raw ops whose names start so")
    for name in ("compare", "compact"):
        command = commands.add_parser(name)
        command.add_argument("first", type=Path)
        command.add_argument("second", type=Path)
    command = commands.add_parser("part", help="one part, in this process")
    command.add_argument("file", type=Path)
    command.add_argument("name", choices=PARTS)
    command.add_argument("ops", nargs="+")
    args = parser.parse_args()
    if args.command == "record":
        return record(args.file, args.part, args.ops)
    if args.command == "part":
        return record_part(args.file, args.name, args.ops)
    return {"compare": compare, "compact": compact}[args.command](args.first, args.second)


if __name__ == "__main__":
    sys.exit(main())
