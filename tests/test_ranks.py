"""Several processes under torchrun: who they are."""

import pytest

from kdcache.errors import UsageError
from kdcache.ranks import Ranks

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


def told(monkeypatch, *values: str) -> Ranks:
    for name, value in zip(NAMES, values, strict=False):
        monkeypatch.setenv(name, value)
    return Ranks.from_environment()


def test_a_process_alone_is_the_first_of_one(monkeypatch):
    assert told(monkeypatch) == Ranks(0, 1, 1)
    assert Ranks().first


def test_a_rank_knows_who_is_beside_it(monkeypatch):
    found = told(monkeypatch, "3", "4", "2")
    assert found == Ranks(3, 4, 2)
    assert not found.first


@pytest.mark.parametrize(
    ("values", "place"),
    [(("4", "4", "2"), "RANK"), (("0", "2", "3"), "LOCAL_WORLD_SIZE"), (("0", "2", "0"), "LOCAL_W")],
)
def test_ranks_that_cannot_be(monkeypatch, values, place):
    with pytest.raises(UsageError, match=f"^{place}.*start it with torchrun, or unset all of them"):
        told(monkeypatch, *values)
