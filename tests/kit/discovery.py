"""The tables of the ops, one module a room. A new room adds itself to ROOMS; the generic tests do the rest."""

from contract.harness import Case, Op, Room
from contract.ops import (
    binary_concrete,
    categorical,
    codebook,
    gumbel_softmax,
    gumbel_softmax_embed,
    nearest_code,
    smoothing,
    straight_through,
    vector_quantize,
)

ROOMS: list[Room] = [
    gumbel_softmax.ROOM,
    binary_concrete.ROOM,
    straight_through.ROOM,
    codebook.ROOM,
    gumbel_softmax_embed.ROOM,
    categorical.ROOM,
    smoothing.ROOM,
    nearest_code.ROOM,
    vector_quantize.ROOM,
]
CASES: list[Case] = [case for room in ROOMS for case in room.cases]
OPS: list[Op] = [op for room in ROOMS for op in room.ops]
