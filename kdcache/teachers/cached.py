"""A teacher whose answers lie in a cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.errors import CacheError
from kdcache.types import Batch, Knowledge

LARGEST_HELD = 1 << 30  # bytes of a view's knowledge that are kept on the device


class CacheTeacher:
    """What a teacher said when the cache was made."""

    def __init__(self, cache: Cache, names: Sequence[str], device="cpu"):
        missing = [name for name in names if name not in cache.names]
        if missing:
            remedy = "dump again with that --method"
            raise CacheError(cache.path, f"knowledge {missing[0]!r}", f"only {', '.join(cache.names)}", remedy)
        self.cache, self.names, self.device = cache, list(names), torch.device(device)
        self.view: int | None = None
        self.held: dict[str, Tensor] = {}
        self.hold = self.device.type != "cpu" and isinstance(cache, Cache) and self.bytes_of_view() < LARGEST_HELD

    def __call__(self, batch: Batch) -> Knowledge:
        views = batch.views.numpy()
        if len(views) and views[0] != self.view:
            self.turn(int(views[0]))
        if self.hold and (views == self.view).all():
            rows = batch.rows.to(self.device, non_blocking=True)
            return {name: self.cache.decode(name, held[rows]) for name, held in self.held.items()}
        return self.cache.read(batch.views, batch.rows, self.names, self.device)

    def turn(self, view: int) -> None:
        """What an epoch asks for goes to the device at once, where it fits; the next epoch's into the page cache."""
        self.view = view
        self.cache.advise((view + 1) % self.cache.views, self.names)
        if self.hold:
            rows = range(len(self.cache))
            self.held = {n: torch.from_numpy(self.cache.records(n, view, rows)).to(self.device) for n in self.names}

    def bytes_of_view(self) -> int:
        return len(self.cache) * sum(self.cache.layout.codecs[name].size for name in self.names)
