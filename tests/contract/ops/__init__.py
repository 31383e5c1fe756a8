"""The case tables, one module an op. A new op adds its module to `CASES`; the contract suite does the rest."""

from contract.harness import Case
from contract.ops import gumbel_softmax

CASES: list[Case] = [*gumbel_softmax.CASES]
