"""From values to places in a drawing, and where the ticks are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Scale = Callable[[float], float]
STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`, laid out from pixel `start` to `end`; in powers of ten where `log` is set."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False  # ticks at whole numbers alone

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / ((high - low) or 1) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values, at most so many."""
        if not self.log:
            ticks = round_values(self.low, self.high, most)
            return [tick for tick in ticks if tick == int(tick)] if self.whole else ticks
        tens = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            found = [digit * 10.0**ten for ten in tens for digit in digits]
            found = [value for value in found if self.low <= value <= self.high]
            if len(found) <= most:
                return found
        return found[:: -(-len(found) // most)]


def round_values(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten between two values.

    >>> round_values(0.913, 0.988, 5)
    [0.92, 0.94, 0.96, 0.98]
    """
    if not high > low:
        return [low]
    ten = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(ten * s for s in STEPS if math.floor(high / (ten * s)) - math.ceil(low / (ten * s)) < most)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def around(values: Sequence[float], least: float = -math.inf, most: float = math.inf) -> tuple[float, float]:
    """A range that holds values with some air, and no value that is none."""
    low, high = min(values), max(values)
    air = 0.06 * (high - low) or 0.02 * abs(high) or 1
    return max(low - air, least), min(high + air, most)
