"""Mean and standard deviation of each dimension of what a cache stores: what makes several teachers' comparable."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from kdcache.cache.base import Store

MOST = 1 << 17  # rows that are read, evenly spaced where there are more: the error of a mean is then a 360th of its std
CHUNK = 4096


class Moments(NamedTuple):
    """Of each dimension, f32; what never changes has 1 as its deviation."""

    mean: Tensor
    std: Tensor

    def standardised(self, values: Tensor) -> Tensor:
        return (values - self.mean.to(values.device)) / self.std.to(values.device)


def moments(file: Store, name: str) -> Moments:
    """Of the first view, in f64 and in one order: the same for whoever computes them."""
    rows = np.arange(0, len(file), -(-len(file) // MOST))
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]

    def total(of) -> Tensor:
        return sum(of(file.read(0, some, [name])[name].double()).sum(0) for some in chunks) / len(rows)

    mean = total(lambda values: values)
    std = total(lambda values: (values - mean).square()).sqrt()
    return Moments(mean.float(), std.where(std > 1e-6 * mean.abs(), 1).float())
