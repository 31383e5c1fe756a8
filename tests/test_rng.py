"""The noise stream in plain torch, which every backend is compared with."""

from __future__ import annotations

import json
import math
from pathlib import Path

import mpmath
import pytest
import torch

from dvae_kernels import _rng, split_key

GOLDEN = json.loads((Path(__file__).parent / "golden" / "gumbel_softmax.json").read_text())


def signed(low: int, high: int) -> int:
    key = low | high << 32
    return key - (1 << 64) if key >> 63 else key


# From the Random123 distribution (Salmon et al., SC 2011): counter, key, result.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("counter, key, result", KNOWN_ANSWERS)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, int], result: tuple[int, ...]) -> None:
    words = _rng.philox(torch.tensor(signed(*key)), *map(torch.tensor, counter))
    assert tuple(word.item() for word in words) == result


@pytest.mark.parametrize("record", GOLDEN["records"], ids=lambda r: f"key={r['key']}")
def test_row_bits_match_the_golden_integers(record: dict) -> None:
    words = torch.tensor(record["words"])
    rows, cols = words.shape
    bits = _rng.row_bits(torch.tensor(record["key"]), rows, cols, 1, row_offset=record["row_offset"])
    assert torch.equal(bits[:, :, 0], words)
    # the same rows as [outer, cols, inner] with inner > 1
    inner = _rng.row_bits(torch.tensor(record["key"]), 1, cols, rows, row_offset=record["row_offset"])
    assert torch.equal(inner[0].t(), words)


def test_row_bits_of_nothing() -> None:
    key = torch.tensor([1, 2])
    for outer, k, inner in ((0, 5, 1), (5, 0, 1), (5, 3, 0), (0, 0, 0)):
        assert _rng.row_bits(key, outer, k, inner).shape == (outer, k, inner)


@pytest.mark.parametrize("index_offset", [0, 1, 2, 3, 4, 4001, 2**34 - 9, 2**34 + 2, 2**63 - 5, 2**63 + 1, 2**64 - 21])
def test_element_bits_are_words_of_the_elements_counters(index_offset: int) -> None:
    key = torch.tensor([-3, 2**32 + 8])
    bits = _rng.element_bits(key, 21, index_offset=_rng.as_int64(index_offset), draw=2)
    for i, word in enumerate(bits.tolist()):
        index = index_offset + i
        counter = (index >> 2 & 0xFFFFFFFF, index >> 34, 8, 2)
        assert _rng.philox(key[0], *map(torch.tensor, counter))[index & 3] == word


def test_element_bits_of_nothing() -> None:
    for index_offset in (0, 3):
        assert _rng.element_bits(torch.tensor([1, 2]), 0, index_offset=index_offset).shape == (0,)


def test_words_are_as_distinct_as_random_ones() -> None:
    """Counters that differ in one word, in neighbouring values, give unrelated words."""
    key = torch.tensor(7)
    n = torch.arange(1 << 14)
    zero = torch.zeros_like(n)
    words = []
    for position in range(4):
        counter = [n + 1 if i == position else zero for i in range(4)]
        words += _rng.philox(key, *counter)
    words = torch.cat(words)
    assert words.min() >= 0 and words.max() < 1 << 32
    # N^2 / 2^33 coincidences are expected of N random words: 8.0 (Poisson)
    coincidences = words.numel() - words.unique().numel()
    assert 1 <= coincidences <= 20
    # every bit is set in half of the words: six standard deviations
    for bit in range(32):
        share = ((words >> bit) & 1).double().mean().item()
        assert abs(share - 0.5) < 6 * 0.5 / words.numel() ** 0.5


def test_whole_counters_do_not_repeat() -> None:
    """Philox is a bijection of the counter: 128-bit blocks of one key are all different."""
    rows, groups = torch.arange(512)[:, None], torch.arange(64)
    blocks = torch.stack(
        torch.broadcast_tensors(*_rng.philox(torch.tensor(3), groups, rows, groups * 0, groups * 0)), -1
    )
    assert blocks.reshape(-1, 4).unique(dim=0).shape[0] == 512 * 64


def test_draws_and_offsets_are_separate_streams() -> None:
    key = torch.tensor([1, 0])
    streams = [
        _rng.row_bits(key, 4, 16, 1),
        _rng.row_bits(key, 4, 16, 1, draw=1),
        _rng.row_bits(torch.tensor([1, 1]), 4, 16, 1),
        _rng.row_bits(torch.tensor([2, 0]), 4, 16, 1),
        _rng.row_bits(key, 4, 16, 1, row_offset=4),
    ]
    assert torch.cat(streams).unique().numel() == 5 * 64


def exact_exponential(k: int) -> mpmath.mpf:
    return -mpmath.log1p(-(k + mpmath.mpf(0.5)) / 2**32)


def integers() -> list[int]:
    """Both ends, the seam of the series, and powers of two between."""
    around = [0, 1 << 30, 1 << 31, 1 << 32]
    chosen = {a + d for a in around for d in range(-300, 300)} | {(1 << j) + d for j in range(33) for d in (-1, 0, 1)}
    chosen |= {(k * 2654435761 + 12345) % (1 << 32) for k in range(2000)}
    return sorted(k for k in chosen if 0 <= k < 1 << 32)


@pytest.mark.parametrize("dtype, relative, absolute", [(torch.float32, 1e-6, 2e-6), (torch.float64, 3e-16, 2e-15)])
def test_noise_against_fifty_digits(dtype: torch.dtype, relative: float, absolute: float) -> None:
    """The exponential keeps its relative accuracy at both ends; the Gumbel noise its absolute one."""
    bits = torch.tensor(integers())
    exponential, gumbel = _rng.bits_to_exponential(bits, dtype), _rng.bits_to_gumbel(bits, dtype)
    logistic = _rng.bits_to_logistic(bits, dtype)
    assert exponential.dtype == gumbel.dtype == logistic.dtype == dtype
    with mpmath.workdps(40):
        for k, e, g, odds in zip(bits.tolist(), exponential.tolist(), gumbel.tolist(), logistic.tolist()):
            exact = exact_exponential(k)
            assert abs(e / exact - 1) <= relative, k
            assert abs(g + mpmath.log(exact)) <= absolute, k
            assert abs(odds - (exact - exact_exponential(2**32 - 1 - k))) <= 2 * absolute, k


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_noise_is_bounded_and_monotonic(dtype: torch.dtype) -> None:
    noise = _rng.bits_to_gumbel(torch.tensor(integers()), dtype)
    assert noise.isfinite().all()
    assert noise.max() == noise[0] and 22.87 < noise[0] < 22.88
    assert noise.min() == noise[-1] and -3.13 < noise[-1] < -3.12
    if dtype == torch.float64:
        assert (noise.diff() < 0).all()


def test_golden_noise() -> None:
    bits, noise = zip(*GOLDEN["gumbel"])
    expected = torch.tensor(noise, dtype=torch.float64)
    torch.testing.assert_close(_rng.bits_to_gumbel(torch.tensor(bits), torch.float64), expected, rtol=0, atol=2e-15)


def test_the_tail_beyond_24_bits() -> None:
    """Uniforms of 24 bits end at G = 16.6. Here 265 of 2^32 integers lie beyond, and as many words are drawn."""
    beyond = torch.tensor([264, 265])
    assert (_rng.bits_to_gumbel(beyond, torch.float64) > 16.6).tolist() == [True, False]
    assert abs(265 / 2**32 / -math.expm1(-math.exp(-16.6)) - 1) < 4e-3  # P(G > 16.6)

    rows = 1 << 18  # 2^24 words a key
    counts = dict.fromkeys((265, 1 << 14, 1 << 20), 0)
    draws = 0
    for seed in range(3):
        bits = _rng.row_bits(torch.tensor([seed, 0]), rows, 64, 1)
        draws += bits.numel()
        for threshold in counts:
            counts[threshold] += int((bits < threshold).sum())
    for threshold, count in counts.items():
        mean = draws * threshold / 2**32  # 3.1, 192, 12288; Poisson
        assert count >= 1
        assert abs(count - mean) < 5 * mean**0.5, threshold


@pytest.mark.parametrize(
    "seed, word", [(0, 0), (5, 5), (-1, -1), (1 << 63, -(1 << 63)), ((1 << 64) - 1, -1), ((1 << 64) + 3, 3)]
)
def test_seeds_are_taken_modulo_two_to_the_64(seed: int, word: int) -> None:
    assert _rng.make_key(torch.device("cpu"), None, seed, None).tolist() == [word, 0]


def test_keys_from_a_generator_use_all_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.stack([_rng.make_key(torch.device("cpu"), None, None, generator) for _ in range(200)])
    assert keys.unique().numel() == keys.numel()
    for bit in range(64):
        assert 0.3 < ((keys[:, 0] >> bit) & 1).double().mean() < 0.7


SPLIT_KEYS = {  # the first three keys of a key
    (0, 0): [(-415460511051165964, 179894436), (-3309142243451688708, 765672378), (-8675183467103591822, 1534607061)],
    (7, 1): [(5367157767577988532, 3882837818), (-835907110536544117, 1289212662), (1412350170000640922, 76485251)],
    (-1, -1): [(8172207955014050567, 1879657453), (6045414750764303560, 3539796506), (2422071335180643928, 3781793104)],
}


def philox_of_integers(counter: tuple[int, ...], seed: int) -> tuple[int, ...]:
    """As the paper writes it, in Python's integers."""
    c0, c1, c2, c3 = counter
    k0, k1, mask = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF, 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & mask, (p0 >> 32) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return c0, c1, c2, c3


@pytest.mark.parametrize("key", SPLIT_KEYS, ids=str)
def test_split_key_known_answers(key: tuple[int, int]) -> None:
    given = torch.tensor(key)
    keys = split_key(given, 3)
    assert keys.dtype == torch.int64 and [tuple(row) for row in keys.tolist()] == SPLIT_KEYS[key]
    for i, row in enumerate(SPLIT_KEYS[key]):
        low, high, offset, _ = philox_of_integers((i, 0, key[1] & 0xFFFFFFFF, 0xFFFFFFFF), key[0])
        assert row == (signed(low, high), offset)
    assert torch.equal(split_key(given, 1), keys[:1]) and torch.equal(split_key(given), keys[:2])
    assert torch.equal(given, torch.tensor(key))


def test_split_keys_are_distinct_and_draw_unrelated_noise() -> None:
    keys = torch.cat([split_key(torch.tensor([seed, 0]), 1000) for seed in range(20)])
    assert len(keys[:, 0].unique()) == len(keys)
    logits = torch.zeros(1 << 14)
    noise = torch.stack([_rng.gumbel_like(logits, key, 0) for key in (torch.tensor([0, 0]), *keys[:3])])
    correlation = torch.corrcoef(noise) - torch.eye(4)
    assert correlation.abs().max() < 5 / len(logits) ** 0.5


def test_split_key_compiles() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda key: split_key(key, 4), fullgraph=True, backend="aot_eager")
    for seed in (1, 2):
        assert torch.equal(compiled(torch.tensor([seed, 3])), split_key(torch.tensor([seed, 3]), 4))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1,), TypeError, "split_key: expected key to be a Tensor, got int"),
        ((torch.zeros(2),), TypeError, "split_key: expected key of dtype int64, got float32"),
        ((torch.zeros(3, dtype=torch.int64),), ValueError, "split_key: expected key of shape (2,), got (3,)"),
        ((torch.tensor([1, 2]), 0), ValueError, "split_key: expected n in [1, 2^32), got 0"),
        ((torch.tensor([1, 2]), 2.0), TypeError, "split_key: expected n to be an int, got float"),
    ],
)
def test_split_key_names_bad_arguments(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        split_key(*arguments)
    assert str(caught.value) == message
