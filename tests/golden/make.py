"""Writes gumbel_softmax.json: the noise stream and samples from it, made without the package.

Integers by Python's own arithmetic after Salmon et al. (2011), noise and samples with 50 digits of mpmath.
Run it by hand: python tests/golden/make.py. The file changes only if the stream's definition does.
"""

from __future__ import annotations

import json
from pathlib import Path

import mpmath

mpmath.mp.dps = 50
MASK = 2**32 - 1


def philox(key: int, counter: list[int]) -> list[int]:
    k0, k1 = key & MASK, key >> 32 & MASK
    for _ in range(10):
        a, b = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [b >> 32 ^ counter[1] ^ k0, b & MASK, a >> 32 ^ counter[3] ^ k1, a & MASK]
        k0, k1 = k0 + 0x9E3779B9 & MASK, k1 + 0xBB67AE85 & MASK
    return counter


def word(key: list[int], row: int, col: int) -> int:
    return philox(key[0], [col >> 2, row, key[1] & MASK, 0])[col & 3]


def gumbel(k: int) -> mpmath.mpf:
    return -mpmath.log(-mpmath.log1p(-(k + mpmath.mpf(0.5)) / 2**32))


def logit(row: int, col: int) -> float:
    return (row * 5 + col * 3) % 11 / 4 - 1  # exact in every float format


def record(key: list[int], rows: int, cols: int, row_offset: int, tau: float) -> dict[str, object]:
    words = [[word(key, row + row_offset, col) for col in range(cols)] for row in range(rows)]
    perturbed = [[logit(r, c) + gumbel(k) for c, k in enumerate(line)] for r, line in enumerate(words)]
    soft = []
    for line in perturbed:
        weights = [mpmath.exp(p / tau) for p in line]
        soft.append([float(w / sum(weights)) for w in weights])
    index = [max(range(cols), key=line.__getitem__) for line in perturbed]
    logits = [[logit(row, col) for col in range(cols)] for row in range(rows)]
    sampled = {"words": words, "soft": soft, "index": index}
    return {"key": key, "row_offset": row_offset, "tau": tau, "logits": logits, **sampled}


def main() -> None:
    records = [
        record([0, 0], 4, 9, 0, 1.0),
        record([42, 3], 3, 17, 2**32 - 3, 0.5),
        record([-1, 2**32 + 5], 6, 4, 100, 2.0),
        record([-(2**63), -1], 2, 33, 7, 1.0),
        record([2**63 - 1, 2**31], 5, 1, 0, 1.0),
    ]
    low = [0, 1, 263, 264, 265, 2**23, 2**24 + 1, 2**30 - 1, 2**30, 2**31 - 1]
    integers = low + [2**32 - 1 - k for k in reversed(low)]
    noise = [[k, float(gumbel(k))] for k in integers]
    text = json.dumps({"gumbel": noise, "records": records}, separators=(",", ":"))
    Path(__file__).with_name("gumbel_softmax.json").write_text(text.replace('{"key"', '\n{"key"') + "\n")


if __name__ == "__main__":
    main()
