"""Which blocks of a cache are whose, where machines that share no files make it in parts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shard:
    """One part of so many; all of it is number 0 of 1."""

    number: int = 0
    of: int = 1

    def share(self, shape: tuple[int, ...]) -> np.ndarray:
        """Which blocks [V, NB] lie in it."""
        return turns(shape, self.of) == self.number


def turns(shape: tuple[int, ...], parts: int) -> np.ndarray:
    """Which part has each block [V, NB]; shifted now and then, or one might have every short last block."""
    if parts == 1:
        return np.zeros(shape, np.int64)
    numbers = np.arange(math.prod(shape)).reshape(shape)
    period = min(math.lcm(shape[-1], parts), numbers.size)
    return (numbers + numbers // max(period, 1)) % parts
