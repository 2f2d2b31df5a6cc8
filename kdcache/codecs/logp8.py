"""Log-probabilities in eight bits, with one scale of 256 levels for the whole file.

The levels are dense where the teacher's log-probabilities lie and weigh: a histogram of the sample, weighted with
what an error there costs in KL at T = 1 and T = 4, sets the density (to the power 1/3, as for any companding
quantiser). The header holds every 15th level; those between are interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.codecs.base import HEADROOM, Codec, class_logits, sample
from kdcache.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

SPACING, KNOTS, BINS = 15, 18, 64
EVEN = 0.3
"""The share of the levels that is spread evenly, so that no row is far from one, however rare it is."""


@dataclass(frozen=True)
class Logp8(Codec):
    """One byte a class, for log-probabilities: a shift of the row's logits is lost."""

    knots: tuple[float, ...] = tuple(float(j) for j in range(KNOTS))
    """How far below zero levels 0, 15, 30 … 255 lie."""
    name: ClassVar[str] = "logp8"
    keeps_shift: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        class_logits(self)
        rising = all(a < b for a, b in pairwise(self.knots))
        if not (len(self.knots) == KNOTS and rising and self.knots[0] == 0 and self.knots[-1] < 3e38):
            raise UsageError("codec logp8", f"{KNOTS} rising levels from 0", f"{self.knots}", "fit the codec again")

    @classmethod
    def fit(cls, values):
        depth = -torch.log_softmax(sample(cls.name, values).double(), -1)
        lowest = float(depth.max()) * HEADROOM or 1.0
        density = _density(depth, lowest)
        reached = np.concatenate([[0], np.cumsum(density)]) / density.sum()
        knots = np.interp(np.arange(KNOTS) / (KNOTS - 1), reached, np.arange(BINS + 1) / BINS) * lowest
        return cls(tuple(values.shape[1:]), tuple(float(f"{knot:.6g}") for knot in knots))

    @property
    def dtype(self):
        return np.dtype(("u1", self.shape))

    def pack(self, values):
        levels = self.levels.to(values.device)
        return torch.bucketize(self._depth(values), (levels[1:] + levels[:-1]) / 2).to(torch.uint8)

    def decode(self, records):
        table = _table(self, records.device)
        return table.index_select(0, records.flatten().int()).view(len(records), *self.shape)

    def decode_numpy(self, records):
        return (-self.depths).astype(np.float32).take(records)

    def top1(self, records):
        return records.argmin(1)  # level 0 is nearest to probability 1

    def ideal(self, values):
        return -self._depth(values)

    def bound(self, values):
        depth, levels = self._depth(values), self.levels.to(values.device)
        step = levels.diff()[torch.bucketize(depth, levels[1:-1])]
        beyond = (depth - levels[-1]).clamp(min=0)
        return step / 2 + beyond + (depth + step) * 2**-23  # the last term: levels are decoded to f32

    def clipped(self, values):
        return (self._depth(values) > self.knots[-1]).any(1)

    def _depth(self, values: Tensor) -> Tensor:
        return -torch.log_softmax(values.double(), 1)

    @property
    def depths(self) -> np.ndarray:
        """All 256 levels as depths below zero, in f64, from additions and products alone: the same everywhere."""
        between = np.arange(SPACING) / SPACING
        low, high = np.array(self.knots[:-1])[:, None], np.array(self.knots[1:])[:, None]
        return np.append(low + (high - low) * between, self.knots[-1])

    @property
    def levels(self) -> Tensor:
        return torch.from_numpy(self.depths)


@lru_cache(maxsize=64)
def _table(codec: Logp8, device: torch.device) -> Tensor:
    return (-codec.levels).float().to(device)


def _density(depth: Tensor, lowest: float) -> np.ndarray:
    """How densely levels should lie in each of the bins from 0 to `lowest`."""
    cost = torch.zeros_like(depth)
    for temperature, importance in ((1, 1.0), (4, 0.1)):
        p = torch.softmax(-depth / temperature, 1)
        cost = cost + importance * p * (1 - p) / temperature**2
    place = (depth / lowest * BINS).long().clamp(max=BINS - 1)
    weight = torch.zeros(BINS, dtype=torch.float64, device=depth.device)
    weight = weight.index_add_(0, place.flatten(), cost.flatten()).cpu().numpy()
    # neighbours share, so that the levels follow the distribution and not the sample
    smooth = np.convolve(np.pad(weight, 2, mode="edge"), np.array([1, 2, 3, 2, 1]) / 9, mode="valid")
    density = np.cbrt(smooth)
    total = density.sum()
    return density / total * (1 - EVEN) + EVEN / BINS if total > 0 else np.full(BINS, 1 / BINS)
