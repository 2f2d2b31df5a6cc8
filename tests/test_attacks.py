"""A few trials of the attacks, and by `make test-all` many; docs/promises.md says what came of more."""

import datetime

import pytest
from conftest import attack

FEW = {"kills": 2, "together": 1, "damage": 2, "long": 1, "drift": 2}


def test_nothing_goes_wrong_in_a_few():
    """Every day begins with other commands, situations, files and changes."""
    found = attack("few", *(f"{name}={count}" for name, count in FEW.items()), seed=datetime.date.today().toordinal())
    assert {name: trials(table) for name, table in found.items()} == FEW


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("kills", 200), ("together", 100), ("damage", 2000), ("drift", 200)])
def test_nothing_goes_wrong(name, count):
    assert trials(attack(name, "--count", count, "--json")) == count


@pytest.mark.slow
def test_a_long_dump_holds_no_more_at_its_end():
    assert attack("long", "--count", 20_000, "--json") == {"a dump of many blocks": {"flat": 1}}


@pytest.mark.slow
def test_every_flipped_bit_of_a_cache_is_found():
    found = attack("damage", "--count", 1000, "--json", "--victims", "cache", "--kinds", "flip,move")
    assert sum(outcomes["refused"] for outcomes in found.values()) == 1000


def trials(found: dict[str, dict[str, int]]) -> int:
    return sum(sum(outcomes.values()) for outcomes in found.values())
