"""One packed all-reduce: the sum over two processes by gloo, and the tensors themselves without torch.distributed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from dvae_kernels import code_statistics, ema_update_
from dvae_kernels._distributed import all_reduce_packed

pytestmark = pytest.mark.skipif(not distributed.is_gloo_available(), reason="torch was built without gloo")


def rows(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(40, 3, generator=generator), torch.randint(5, (40,), generator=generator)


def update(*batches: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """A codebook after one step on the batches of this process."""
    codebook, size, total = torch.zeros(5, 3), torch.zeros(5), torch.zeros(5, 3)
    x, indices = (torch.cat(parts) for parts in zip(*batches))
    counts, sums = all_reduce_packed(*code_statistics(x, indices, 5))
    ema_update_(codebook, size, total, counts, sums)
    return codebook


def work(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    scalar, empty, matrix = all_reduce_packed(torch.tensor(rank + 1.0), torch.zeros(0), torch.full((2, 3), 10.0**rank))
    assert scalar == 3 and scalar.dim() == 0
    assert empty.shape == (0,) and torch.equal(matrix, torch.full((2, 3), 11.0))
    with pytest.raises(ValueError, match="expected tensors of one dtype and device"):
        all_reduce_packed(torch.zeros(1), torch.zeros(1, dtype=torch.float64))
    torch.save(update(rows(rank)), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_update_one_codebook_alike(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, update(rows(0), rows(1)))


def test_alone_the_tensors_come_back_as_they_are() -> None:
    tensors = torch.ones(2), torch.ones((), dtype=torch.int64)
    assert all(ours is theirs for ours, theirs in zip(all_reduce_packed(*tensors), tensors))
