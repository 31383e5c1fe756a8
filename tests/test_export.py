"""torch.export: any number of rows, and programs that run in another process, and where other kernels are built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.export import Dim

import dvae_kernels as dk
from kit.discovery import OPS
from kit.opinfo import Op
from test_import import NO_EXTENSIONS


class Model(torch.nn.Module):
    def __init__(self, op: Op):
        super().__init__()
        self.call, self.noise, self.names = op.call, {"seed": 3} if op.draws else {}, list(op.inputs((5, 9)))

    def forward(self, *values: Tensor) -> Tensor:
        return self.call(dict(zip(self.names, values)), "cpp", **self.noise)


def values(op: Op, rows: int) -> tuple[Tensor, ...]:
    return tuple(x.float() for x in op.inputs((rows, 9)).values())


@pytest.mark.parametrize(
    ("op", "strict"), [*((op, False) for op in OPS), *((op, True) for op in OPS if "softmax soft" in op.name)], ids=str
)
def test_any_number_of_rows(op: Op, strict: bool) -> None:
    """With a plain Dim, as torch's own functions take it; 2049 rows are more than one block of a loss."""
    batch, few, many = Dim("batch"), values(op, 5), values(op, 2049)
    shapes = tuple(
        {d: batch for d, (a, b) in enumerate(zip(x.shape, y.shape)) if a != b} or None for x, y in zip(few, many)
    )
    program = torch.export.export(Model(op), few, dynamic_shapes=(shapes,), strict=strict).module()
    for inputs in (few, many):
        torch.testing.assert_close(program(*inputs), Model(op)(*inputs))


RUN = """
import sys, torch, dvae_kernels
print(torch.export.load(sys.argv[1]).module()(torch.arange(24.).reshape(3, 8) / 9).tolist())
"""


class Argmax(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return dk.gumbel_argmax(x, seed=1) + dk.gumbel_softmax(x, hard=True, seed=1).argmax(-1)


@pytest.mark.parametrize("world", ["", NO_EXTENSIONS], ids=["", "without compiled modules"])
def test_a_program_runs_in_a_new_process(tmp_path: Path, world: str) -> None:
    x, file = torch.arange(24.0).reshape(3, 8) / 9, tmp_path / "model.pt2"
    torch.export.save(torch.export.export(Argmax(), (x,)), file)
    result = subprocess.run([sys.executable, "-c", world + RUN, str(file)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(Argmax()(x).tolist())


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_a_program_of_another_device_takes_the_kernels_of_this_one(backend: str) -> None:
    """An exported program names the overload of its device."""
    x, key = torch.randn(4, 9, requires_grad=True), torch.tensor([1, 0])
    overload = getattr(torch.ops.dvae_kernels.gumbel_argmax, backend)
    assert torch.equal(overload(x.detach(), key, 1, 0), dk.gumbel_argmax(x, key=key))
