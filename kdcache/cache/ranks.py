"""Ranks under torchrun, without a process group: a dump needs none."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kdcache.errors import KdcacheError, UsageError

PATIENCE = 6 * 3600.0


@dataclass(frozen=True)
class Ranks:
    """This process among its peers; alone it is rank 0 of 1."""

    rank: int = 0
    world: int = 1

    @classmethod
    def from_environment(cls) -> Ranks:
        found = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        try:
            rank, world = map(int, found)
        except ValueError:
            rank = world = -1
        if not 0 <= rank < world:
            expected, given = "a number from 0 to WORLD_SIZE-1", f"{found[0]!r} of {found[1]!r}"
            raise UsageError("RANK", expected, given, "start it with torchrun, or unset both")
        return cls(rank, world)

    def share(self, shape: tuple[int, ...]) -> np.ndarray:
        """Which blocks [V, NB] fall to this rank."""
        return turns(shape, self.world) == self.rank

    def wait_for(self, ready: Callable[[], bool], sign: Callable[[], object] = lambda: None) -> None:
        """Waits until `ready()` is true, which the other ranks bring about; a process alone returns at once.

        If `sign()` does not change for PATIENCE seconds, the others are taken to be gone, and an error says so.
        """
        last, since = sign(), time.monotonic()
        while self.world > 1 and not ready():
            if (now := sign()) != last:
                last, since = now, time.monotonic()
            if time.monotonic() - since > PATIENCE:
                found = f"no sign of them for {PATIENCE / 3600:g} hours"
                raise KdcacheError(f"rank {self.rank}", "the other ranks", found, "run it again")
            time.sleep(0.1)


def turns(shape: tuple[int, ...], world: int) -> np.ndarray:
    """Whose turn each block [V, NB] is; shifted now and then, or one rank might have every short last block."""
    numbers = np.arange(math.prod(shape)).reshape(shape)
    period = min(math.lcm(shape[-1], world), numbers.size)
    return (numbers + numbers // max(period, 1)) % world
