"""A little damage and drift; docs/promises.md says what came of much. A file of its own, for a worker of its own."""

import pytest
from conftest import attack

LONG = [pytest.param("damage", 2000, marks=pytest.mark.slow), pytest.param("drift", 200, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("name", "count"), [("damage", 4), ("drift", 3), *LONG])
def test_nothing_goes_wrong(name, count):
    attack(name, count)


@pytest.mark.slow
def test_every_flipped_bit_of_a_cache_is_found():
    found = attack("damage", 1000, "--victims", "cache", "--kinds", "flip,move")
    assert sum(outcomes["refused"] for outcomes in found.values()) == 1000
