"""A row is found by the digest of its image: right, in any order, however often, and never for another image."""

import numpy as np
import pytest
import torch
from conftest import attack

import kdcache
from kdcache.cache.lookup import Lookup
from kdcache.cache.subset import Subset
from kdcache.errors import UsageError

TYPES = {
    "uint64": lambda digests: digests,
    "the bits as int64": lambda digests: digests.view(np.int64),
    "a tensor": lambda digests: torch.from_numpy(digests.view(np.int64)),
    "a list": lambda digests: digests.tolist(),
}


def some(count: int, key: int = 0) -> np.ndarray:
    """Digests that differ in their lowest bits alone, which floats would lose, and the largest there are."""
    high = np.random.default_rng(key).integers(0, 2**50, count // 4 + 1, dtype=np.uint64)
    every = (high[:, None] << np.uint64(14) | np.arange(4, dtype=np.uint64)).ravel()[:count]
    every[-1:] = 2**64 - 1
    return np.random.default_rng(key).permutation(every)


def reference(digests, wanted) -> list[int]:
    first = {}
    for row, digest in enumerate(digests.tolist()):
        first.setdefault(digest, row)
    return [first.get(digest, -1) for digest in wanted.tolist()]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_as_a_dictionary_finds_them(rows, kind):
    digests = some(rows)
    wanted = np.random.default_rng(1).permutation(np.concatenate([digests, digests[::3], digests ^ np.uint64(2**63)]))
    assert Lookup(digests).rows_of(TYPES[kind](wanted)).tolist() == reference(digests, wanted)


def test_images_of_the_same_bytes_share_the_first_row():
    digests = np.repeat(some(100), 3)
    assert Lookup(digests).rows_of(digests).tolist() == np.arange(300).reshape(100, 3).min(1).repeat(3).tolist()


def test_more_than_are_sorted_at_a_time(monkeypatch):
    monkeypatch.setattr("kdcache.cache.lookup.TOGETHER", 64)
    digests = some(1000)
    assert Lookup(digests).rows_of(digests).tolist() == list(range(1000))


def test_nothing_is_found_in_nothing():
    assert Lookup(some(0)).rows_of(some(3)).tolist() == [-1] * 3
    assert Lookup(some(3)).rows_of([]).tolist() == []


def test_twelve_bytes_a_row():
    assert Lookup(some(1000)).nbytes == 12_000


@pytest.mark.parametrize(
    "wrong", [[0.5], np.float64([3]), np.int32([3]), [-1], [2**64], ["3"], np.uint64([[3]]), np.uint64(3), None]
)
def test_what_is_no_digest_is_refused(wrong):
    with pytest.raises(UsageError, match=r"digests: expected a list of 64-bit whole numbers"):
        Lookup(some(3)).rows_of(wrong)


def test_a_cache_finds_its_rows(cache, data):
    images = data.train.read([7, 5]).numpy()
    assert cache.rows_of([kdcache.digest(image.tobytes()) for image in images]).tolist() == [7, 5]


def test_a_part_of_a_cache_finds_its_own_rows(cache):
    part = Subset(cache, [3, 900], {})
    assert part.rows_of(cache.digests[[900, 4, 3]]).tolist() == [1, -1, 0]


@pytest.mark.parametrize("count", [5_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_copies_of_a_data_set_find_their_rows(count):
    found = attack("lookup", "--count", count, "--json", seed=count)
    assert sum(sum(outcomes.values()) for outcomes in found.values()) == count
    assert all(outcomes.get("right") for outcomes in found.values())
