"""The compiled modules: `_C` (C++, CPU) and `_C_cuda` (CUDA). pyproject.toml has the rest.

Both use torch's stable ABI and no Python API, so one binary serves torch >= 2.11 and Python >= 3.10. torch is not a
build requirement: where it is missing (pip's isolated build) the package is plain Python and runs the reference.

    DVAE_KERNELS_BUILD_CPP    0 builds neither module, 1 fails where `_C` cannot be built; default: where possible
    DVAE_KERNELS_BUILD_CUDA   0 skips `_C_cuda`, 1 fails where it cannot be built; default: where nvcc fits torch
    DVAE_KERNELS_CUDA_ARCHS   compute capabilities, default those of 80, 90, 100 that nvcc knows; PTX of the last
    CXX, CUDA_HOME            the compilers, where the ones on PATH are not wanted
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
TORCH_MINIMUM = (2, 11)
DEFAULT_ARCHS = ("80", "90", "100")
DEFINES = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]
CXX_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
# Off by default on x86, and worth 10 to 15% here: independent vectors interleave, as far as registers go round.
GCC_FLAGS = ["-fschedule-insns", "-fsched-pressure"]
NVCC_FLAGS = ["-std=c++17", "-O3", "-DUSE_CUDA", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra"]


class CannotBuild(Exception):
    """Why a module cannot be built here."""


def switch(name: str) -> bool | None:
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        sys.exit(f"{name} must be 0, 1 or unset, got {value!r}")
    return bool(int(value)) if value else None


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Torch:
    """The torch to build for."""

    def __init__(self) -> None:
        try:
            import torch
        except ImportError as error:
            raise CannotBuild(
                f"torch cannot be imported ({error}): install torch>=2.11, then pip install --no-build-isolation"
            ) from None
        if tuple(int(n) for n in torch.__version__.split(".")[:2]) < TORCH_MINIMUM:
            raise CannotBuild(f"torch {torch.__version__} is older than 2.11")
        self.version, self.cuda = str(torch.__version__), torch.version.cuda
        home = Path(torch.__file__).parent
        self.include = ["-isystem", str(home / "include"), f"-I{ROOT / 'csrc'}"]
        self.link = [f"-L{home / 'lib'}", "-Wl,--no-as-needed", "-ltorch_cpu", "-ltorch"]


class CppToolchain:
    module, sources = "_C", ("module_cpu.cpp", "*/cpu.cpp")
    switch, archs, cuda = "DVAE_KERNELS_BUILD_CPP", [], None

    def __init__(self, torch: Torch):
        given = shlex.split(os.environ.get("CXX", ""))  # may be a wrapper, or have flags: "ccache g++", "g++ -m64"
        names = given[:1] or ["g++", "clang++", "c++"]
        compiler = next((path for name in names if (path := shutil.which(name))), None)
        if compiler is None:
            if given:
                sys.exit(f"CXX is {os.environ['CXX']!r}, but {given[0]!r} was not found")
            raise CannotBuild(f"no C++ compiler ({', '.join(names)}) was found on PATH")
        command = [compiler, *given[1:]]
        self.version = output_of(*command, "--version").splitlines()[0]
        self.flags = [*CXX_FLAGS, *([] if "clang" in self.version else GCC_FLAGS), *DEFINES]
        self.compile = [*command, *self.flags, *torch.include]
        self.link = [*command, "-shared", *torch.link]


class CudaToolchain:
    module, sources, switch = "_C_cuda", ("*/cuda.cu",), "DVAE_KERNELS_BUILD_CUDA"

    def __init__(self, torch: Torch, forced: bool):
        # torch.utils.cpp_extension.CUDA_HOME is None beside a CPU torch, so nvcc is looked for here
        home = os.environ.get("CUDA_HOME")
        found = shutil.which("nvcc", path=f"{home}/bin" if home else None) or shutil.which(
            "nvcc", path="/usr/local/cuda/bin"
        )
        if found is None:
            raise CannotBuild("nvcc was not found (on PATH, or in bin/ under CUDA_HOME)")
        self.compiler = found
        self.version = re.search(r"release ([\d.]+)", output_of(found, "--version"))[1]
        if not forced and (torch.cuda or "").split(".")[0] != self.version.split(".")[0]:
            raise CannotBuild(f"nvcc is {self.version} and torch {torch.version} has CUDA {torch.cuda}")
        self.cuda = self.version
        known = output_of(found, "--list-gpu-arch").split()
        default = ",".join(a for a in DEFAULT_ARCHS if f"compute_{a}" in known)
        self.archs = re.findall(r"\d+[af]?", os.environ.get("DVAE_KERNELS_CUDA_ARCHS") or default)
        targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in self.archs]
        targets.append(f"-gencode=arch=compute_{self.archs[-1]},code=compute_{self.archs[-1]}")
        self.flags = [*NVCC_FLAGS, *DEFINES, *targets]
        self.compile = [found, *self.flags, *torch.include]
        # the static runtime; libtorch_cuda comes in through libtorch where the module is loaded
        self.link = [found, "-shared", *(f"-Xlinker={f[4:]}" if f.startswith("-Wl,") else f for f in torch.link)]


Toolchain = CppToolchain | CudaToolchain


def find_toolchains() -> list[Toolchain]:
    """The modules to build; exits with the reason where one was asked for and cannot be built."""
    build_cpp, build_cuda = switch("DVAE_KERNELS_BUILD_CPP"), switch("DVAE_KERNELS_BUILD_CUDA")
    if build_cpp is False:
        return []
    found: list[Toolchain] = []
    for name, wanted in (("CPP", build_cpp), ("CUDA", build_cuda)):
        if wanted is False:
            continue
        try:
            torch = Torch()
            found.append(CppToolchain(torch) if name == "CPP" else CudaToolchain(torch, bool(wanted)))
        except CannotBuild as error:
            if wanted:
                sys.exit(f"DVAE_KERNELS_BUILD_{name}=1, but {error}")
            module = "_C" if name == "CPP" else "_C_cuda"
            print(f"dvae_kernels.{module} is not built: {error}", file=sys.stderr)
    return found


class BuildExt(build_ext):
    """Compiles with the toolchains above, in parallel and only what changed, into build/<module>/."""

    def build_extension(self, ext: Extension) -> None:
        tools = ext.toolchain
        work = ROOT / "build" / tools.module
        objects = [work / Path(source).with_suffix(".o").relative_to("csrc") for source in ext.sources]
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
            list(pool.map(lambda job: compile_object(tools, *job), zip(ext.sources, objects)))
        library = work / f"{tools.module}.so"
        run_if_stale(tools, library, [*tools.link, *map(str, objects), "-o", str(library)], objects)
        target = Path(self.get_ext_fullpath(ext.name))
        self.mkpath(str(target.parent))
        self.copy_file(str(library), str(target))

    def run(self) -> None:
        super().run()
        if not self.extensions:
            return
        built = {e.toolchain.module: describe(e.toolchain) for e in self.extensions}
        packages = [Path(self.build_lib) / "dvae_kernels"] + [ROOT / "dvae_kernels"] * bool(self.inplace)
        for package in packages:
            write_build_info(package / "_build_info.json", built)


def describe(tools: Toolchain) -> dict[str, object]:
    import torch

    return {
        "torch": torch.__version__,
        "compiler": tools.version if tools.module == "_C" else f"nvcc {tools.version}",
        "cuda": tools.cuda,
        "archs": tools.archs,
        "flags": tools.flags,
    }


def write_build_info(path: Path, built: dict[str, dict[str, object]]) -> None:
    """Record what was built; a module built before keeps its entry."""
    before = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps({**before, **built}, indent=1) + "\n")
    scratch.replace(path)


def compile_object(tools: Toolchain, source: str, target: Path) -> None:
    depfile = target.with_suffix(".d")
    # the depfile reads `target: source header header \`
    depends = depfile.read_text().replace("\\\n", " ").partition(":")[2].split() if depfile.exists() else []
    command = [*tools.compile, "-MMD", "-MF", str(depfile), "-c", str(ROOT / source), "-o", str(target)]
    run_if_stale(tools, target, command, [Path(d) for d in depends])


def run_if_stale(tools: Toolchain, target: Path, command: list[str], depends: list[Path]) -> None:
    """Run `command` unless it made `target` before, from files that have not changed since."""
    stamp = target.with_name(target.name + ".command")
    line = shlex.join(command)
    if target.exists() and depends and stamp.exists() and stamp.read_text() == line:
        made = target.stat().st_mtime_ns
        if all(d.exists() and d.stat().st_mtime_ns <= made for d in depends):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    print(line, flush=True)
    if subprocess.run(command).returncode:
        sys.exit(f"compiling failed: {line}\nto install without dvae_kernels.{tools.module}, set {tools.switch}=0")
    stamp.write_text(line)


def extension(tools: Toolchain) -> Extension:
    sources = [str(p.relative_to(ROOT)) for pattern in tools.sources for p in sorted((ROOT / "csrc").glob(pattern))]
    headers = [str(p.relative_to(ROOT)) for p in sorted((ROOT / "csrc").rglob("*.*h"))]
    ext = Extension(f"dvae_kernels.{tools.module}", sources, depends=headers, py_limited_api=True)
    ext.toolchain = tools
    return ext


def main() -> None:
    building = any(c in sys.argv for c in ("build_ext", "build", "bdist_wheel", "editable_wheel", "install", "develop"))
    toolchains = find_toolchains() if building else []
    options = {"bdist_wheel": {"py_limited_api": "cp310"}} if toolchains else {}
    setup(
        license="Apache-2.0",
        ext_modules=[extension(t) for t in toolchains],
        cmdclass={"build_ext": BuildExt},
        options=options,
    )


main()
