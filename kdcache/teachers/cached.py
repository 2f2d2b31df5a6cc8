"""A teacher whose answers lie in a cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kdcache.cache import Store
from kdcache.cache.base import Held
from kdcache.errors import CacheError
from kdcache.types import Batch, Knowledge

LARGEST_HELD = 1 << 30  # bytes of a view's knowledge that are kept on the device


class CacheTeacher:
    """What a teacher said when the cache was made."""

    def __init__(self, cache: Store, names: Sequence[str], device="cpu"):
        if missing := [name for name in names if name not in cache.names]:
            remedy = "dump again with that --method"
            raise CacheError(cache.path, f"knowledge {missing[0]!r}", f"only {', '.join(cache.names)}", remedy)
        self.cache, self.names, self.device = cache, list(names), torch.device(device)
        self.view: int | None = None
        self.held: Held | None = None
        self.hold = self.device.type != "cpu" and cache.bytes_of_view(self.names) < LARGEST_HELD

    def __call__(self, batch: Batch) -> Knowledge:
        items, n = batch.items, len(self.cache)
        if len(items) and items[0] // n != self.view:
            self.turn(int(items[0] // n))
        if self.held and len(items):
            rows = items - self.view * n
            if rows.min() >= 0 and rows.max() < n:
                return self.held(torch.from_numpy(rows).to(self.device, non_blocking=True))
        return self.cache.gather(items, self.names, self.device)

    def turn(self, view: int) -> None:
        """What an epoch asks for goes to the device at once, where it fits; the next epoch's into the page cache."""
        self.view = view
        self.cache.require_unchanged()  # reading what was cut off would end the process
        self.cache.advise((view + 1) % self.cache.views, self.names)
        if self.hold:
            self.held = self.cache.hold(view, self.names, self.device)
