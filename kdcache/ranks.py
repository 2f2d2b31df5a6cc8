"""Which process this is among those that torchrun started together."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kdcache.errors import UsageError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Ranks:
    """This process among its peers; alone it is rank 0 of 1. `beside` of them, itself included, share its machine.

    Which accelerator is its own, `choose_device` of `kdcache.jobs` says.
    """

    rank: int = 0
    world: int = 1
    beside: int = 1

    @classmethod
    def from_environment(cls) -> Ranks:
        """What torchrun says of this process.

        >>> Ranks.from_environment()  # where torchrun did not start it
        Ranks(rank=0, world=1, beside=1)
        """
        world = whole("WORLD_SIZE", "1")
        rank, beside = whole("RANK", "0"), whole("LOCAL_WORLD_SIZE", "1")
        require("RANK", "a number from 0 to WORLD_SIZE-1", 0 <= rank < world)
        require("LOCAL_WORLD_SIZE", "a number from 1 to WORLD_SIZE", 1 <= beside <= world)
        return cls(rank, world, beside)

    def require_alone(self, expected: str, remedy: str) -> None:
        """Refuses what several processes that train together cannot do."""
        if self.world > 1:
            raise UsageError("torchrun", expected, f"{self.world} processes", remedy)

    @property
    def first(self) -> bool:
        """Whether it is the one that speaks for all, and writes what there is one of."""
        return self.rank == 0


def whole(name: str, alone: str) -> int:
    """A number of the environment; -1 where it is none."""
    text = os.environ.get(name, alone)
    return int(text) if text.isdecimal() and len(text) < 9 else -1


def require(name: str, expected: str, right: bool) -> None:
    if not right:
        found = ", ".join(f"{name} {os.environ[name]!r}" for name in NAMES if name in os.environ)
        raise UsageError(name, expected, found, "start it with torchrun, or unset all of them")
