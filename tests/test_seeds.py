"""Philox is the published one, on NumPy as on torch, and what is drawn from it is even and independent."""

import hashlib
import math
import time
import warnings
from itertools import combinations

import numpy as np
import pytest
import torch

from kdcache import seeds
from kdcache.seeds import GEOMETRY, below, bijection, draw, keyed, permutation, philox, sample_seeds

# Random123, kat_vectors, "philox4x32 10"
KNOWN = {
    "zeros": ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    "ones": ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    "pi": (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
}
BACKENDS = {"numpy": lambda v: np.array([v], dtype=np.int64), "torch": lambda v: torch.tensor([v]), "int": lambda v: v}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", KNOWN)
def test_known_answers(case, backend):
    counter, key, expected = KNOWN[case]
    words = philox([BACKENDS[backend](c) for c in counter], [BACKENDS[backend](k) for k in key])
    assert [np.asarray(word).item() for word in words] == expected


def many(n: int) -> np.ndarray:
    """All kinds of 64-bit patterns."""
    low, high, _, _ = keyed(99, np.arange(n, dtype=np.int64))
    return np.concatenate([low | (high << 32), np.int64([0, -1, 1, -(2**63), 2**63 - 1, 2**32 - 1, 2**32])])


def test_numpy_and_torch_draw_the_same():
    patterns = many(500)
    for stream in range(5):
        for ours, theirs in zip(draw(patterns, 3, stream), draw(torch.from_numpy(patterns), 3, stream), strict=True):
            assert np.array_equal(ours, theirs.numpy())
            assert ours.min() >= 0
            assert ours.max() <= seeds.MASK
    rows = np.arange(400)
    views = rows % 7
    ours, theirs = (
        sample_seeds(-5, *pair) for pair in ((views, rows), (torch.from_numpy(views), torch.from_numpy(rows)))
    )
    assert np.array_equal(ours, theirs.numpy())
    ours, theirs = (bijection(v, 400, 1, v * 3) for v in (rows, torch.from_numpy(rows)))
    assert np.array_equal(ours, theirs.numpy())


def test_draws_of_many_numbers_at_once_are_those_of_each_alone():
    patterns = many(50)
    together = draw(patterns[:, None], np.arange(6), GEOMETRY)
    for n in range(6):
        for word, alone in zip(together, draw(patterns, n, GEOMETRY), strict=True):
            assert np.array_equal(word[:, n], alone)


def test_scalars_wrap_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = sample_seeds(2**63 + 11, np.int64(4), np.int64(5))
        assert alone == sample_seeds(2**63 + 11, np.int64([4]), np.int64([5]))[0]


def test_seeds_never_change():
    """Caches that exist would no longer replay."""
    views, rows = np.divmod(np.arange(4096), 1024)
    values = sample_seeds(7, views, rows)
    assert values[:3].tolist() == [-4608878016248907219, -3776342970988589413, 155932412659770304]
    assert hashlib.blake2b(values.astype("<i8").tobytes(), digest_size=8).hexdigest() == "9a1898d4d29dedd6"
    order = permutation(1000, 3, 2)
    assert hashlib.blake2b(order.astype("<i8").tobytes(), digest_size=8).hexdigest() == "5554a9fc0023fc57"
    order = bijection(np.arange(162), 162, 3, 2)
    assert hashlib.blake2b(order.astype("<i8").tobytes(), digest_size=8).hexdigest() == "9c851ddd142c2604"


def distinct(rows: int, views: int) -> int:
    every = [sample_seeds(0, np.int64([view]), np.arange(rows, dtype=np.int64)) for view in range(views)]
    return len(np.unique(np.concatenate(every)))


def test_seeds_are_distinct():
    assert distinct(50_000, 10) == 500_000
    assert len({int(sample_seeds(key, np.int64([0]), np.int64([0]))[0]) for key in range(1000)}) == 1000


@pytest.mark.slow
def test_ten_million_seeds_are_distinct():
    assert distinct(1_000_000, 10) == 10_000_000


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000])
def test_permutation_is_one_and_differs(n):
    orders = [permutation(n, key, epoch) for key in (0, 1) for epoch in (0, 1)]
    assert all(np.array_equal(np.sort(order), np.arange(n)) for order in orders)
    assert np.array_equal(orders[0], permutation(n, 0, 0))
    if n >= 10:
        assert not any(np.array_equal(a, b) for a, b in combinations(orders, 2))


@pytest.mark.parametrize("start", range(0, 1000, 100))
def test_bijection_of_every_small_size(start):
    for n in range(start + 1, start + 101):
        assert np.array_equal(np.sort(bijection(np.arange(n), n, key=5, tweak=n)), np.arange(n)), n


def test_bijection_of_a_large_prime_is_quick():
    n, started = 1_281_167, time.process_time()
    found = np.zeros(n, dtype=bool)
    found[bijection(np.arange(n), n, key=5)] = True
    assert found.all()
    assert time.process_time() - started < 20  # 2 s on an idle core


@pytest.mark.parametrize("n", [81, 162])
def test_enumeration_orders_are_even_in_pairs(n):
    """The first and the last place of many keyed orders take every pair of values equally often."""
    tries = 100_000
    tweak = np.arange(tries)
    first, last = (bijection(np.full(tries, place), n, 1, tweak) for place in (0, n - 1))
    pairs = np.bincount(first * n + last, minlength=n * n).reshape(n, n)
    assert np.diagonal(pairs).sum() == 0
    even(pairs[~np.eye(n, dtype=bool)])


def even(counts: np.ndarray) -> None:
    """Chi-square within five standard deviations."""
    expected, freedom = counts.mean(), counts.size - 1
    chi = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi - freedom) < 5 * math.sqrt(2 * freedom)


def test_crop_and_flip_are_even_and_independent():
    """In neighbouring rows, and in the views of one row."""
    for views, rows in (
        (np.zeros(200_000, np.int64), np.arange(200_000)),
        (np.arange(200_000), np.zeros(200_000, np.int64)),
    ):
        a, b, c, d = draw(sample_seeds(0, views, rows), 0, GEOMETRY)
        top, left, flip = below(a, 9), below(b, 9), c >> 31
        even(np.bincount(top * 18 + left * 2 + flip, minlength=162))
        even(np.bincount(top[1:] * 9 + top[:-1], minlength=81))
        for one, other in combinations((a, b, c, d), 2):
            assert abs(np.corrcoef(one, other)[0, 1]) < 5 / math.sqrt(len(rows))


def test_streams_and_draws_are_independent():
    patterns = sample_seeds(0, np.int64([0]), np.arange(50_000))
    words = [w for stream in range(5) for n in (0, 1) for w in draw(patterns, n, stream)]
    correlation = np.corrcoef(np.stack(words)) - np.eye(len(words))
    assert np.abs(correlation).max() < 6 / math.sqrt(len(patterns))


def test_one_bit_of_the_seed_changes_half_of_the_bits_drawn():
    patterns = sample_seeds(0, np.int64([0]), np.arange(2000))
    for bit in (0, 31, 32, 63):
        flipped = patterns ^ np.int64(-(2**63) if bit == 63 else 1 << bit)
        changed = [
            np.bitwise_count(x ^ y).mean() for x, y in zip(draw(patterns, 0, 0), draw(flipped, 0, 0), strict=True)
        ]
        assert all(15.7 < mean < 16.3 for mean in changed)
