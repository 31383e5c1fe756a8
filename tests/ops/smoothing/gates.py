"""The CUDA kernels of the smoothing transformations: every kind in float32 and float64, each of all storage types."""

from dvae_kernels import SMOOTHING_KINDS
from kit.nvcc import Gates, Loop, wide_accesses


def _role(loop: Loop) -> str | None:
    """fours: a turn over four elements of a thread, with whole 16-byte accesses. A block of fewer elements, or at other
    addresses, goes one by one in a loop of its own, which has a quarter of the code."""
    return "fours" if wide_accesses(loop, "LDG") and wide_accesses(loop, "STG") else None


def _gates(every: dict[str, float], narrow_loads: int, narrow_stores: int, **kinds: dict[str, float]) -> Gates:
    """Budgets of every kind and of single ones. Narrow accesses are those of half types and of the loop one by one, the
    key, beta, and the blocks' sums. Four blocks of 256 threads fit at 64 registers."""
    return Gates(
        registers=64,
        vector=len(SMOOTHING_KINDS),
        strided=len(SMOOTHING_KINDS),
        narrow_loads=narrow_loads,
        narrow_stores=narrow_stores,
        loops={"fours": every},
        instances={f"<{kind}<": {"fours": budget} for kind, budget in kinds.items()},
        role=_role,
        columns=lambda kernel, loop, role: 4,
    )


# All code of a turn: the conversions from and to three storage types, noise from a key and from a tensor, and every
# gradient, of which one path runs.
KERNELS = {
    "smoothing_fwd": _gates(
        {"total": 142, "mufu": 7, "wide": 5.5, "convert": 5, "memory": 1.25},
        narrow_loads=11,
        narrow_stores=3,
        Power={"total": 96, "mufu": 4, "wide": 5.5, "convert": 4},
        SpikePower={"total": 86, "mufu": 3, "wide": 5.5, "convert": 4},
        SpikeExponential={"total": 125, "mufu": 2, "wide": 5.5, "convert": 5},
    ),
    "smoothing_bwd": _gates(
        {"total": 214, "mufu": 13, "wide": 5.5, "convert": 5, "memory": 2},
        narrow_loads=17,
        narrow_stores=6,
        Power={"total": 118, "mufu": 5, "wide": 5.5, "convert": 4},
        SpikePower={"total": 110, "mufu": 4, "wide": 5.5, "convert": 4},
        SpikeExponential={"total": 165, "mufu": 13, "wide": 5.5, "convert": 5},
    ),
    "smoothing_log_prob_fwd": _gates(
        {"total": 180, "mufu": 3, "wide": 0.25, "convert": 4, "memory": 1.25},
        narrow_loads=14,
        narrow_stores=1,
        Power={"total": 73, "mufu": 3, "wide": 0.25, "convert": 0},
    ),
    "smoothing_log_prob_bwd": _gates(
        {"total": 192, "mufu": 5, "wide": 0.5, "convert": 6.25, "memory": 2.25},
        narrow_loads=16,
        narrow_stores=8,
        Power={"total": 105, "mufu": 4, "wide": 0.5, "convert": 4},
    ),
}
