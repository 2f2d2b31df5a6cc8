"""A sample-view from the bytes of its image, for whoever has images one by one and no data set with rows."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.errors import DataChanged, UsageError
from kdcache.sources.arrays import digest
from kdcache.sources.decode import decode
from kdcache.views import View, from_json

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.cache.base import Store

one_at_a_time = threading.RLock()  # for views that seed the generators of a whole process


class Renderer:
    """The view of a cache, made of its header, and its seeds."""

    def __init__(self, store: Store):
        self.store = store
        self.views: dict[str | None, View] = {}

    def view(self, augment: str | None) -> View:
        if augment not in self.views:
            with one_at_a_time:
                self.views[augment] = self._opened(augment)
        return self.views[augment]

    def _opened(self, augment: str | None) -> View:
        view = from_json(self.store.path, self.store.meta["view"], augment)
        if view.mixes:
            remedy = "read them with kdcache.CachedDataset"
            raise UsageError(self.store.path, "a view of single images", f"{view.name}, of two", remedy)
        return view

    def render(self, row: int, view: int, data: bytes | np.ndarray | Tensor, augment: str | None = None) -> Tensor:
        items = self.store.items(view, [row])
        self._require_image(int(row), data)
        return self.show(f"{self.store.path}, row {row}", self.store.seeds_of(items), data, augment)

    def show(self, place: str, seeds: np.ndarray, data: bytes | np.ndarray | Tensor, augment: str | None) -> Tensor:
        """An image under the one seed that there is."""
        view, pixels = self.view(augment), decode(place, data) if isinstance(data, bytes) else data
        image, seeds = torch.as_tensor(pixels)[None], torch.from_numpy(seeds)
        if view.native:
            return view.plain.render(image, seeds)[0]
        with one_at_a_time:
            return view.plain.render(image, seeds)[0]

    def _require_image(self, row: int, data) -> None:
        """Refuses the bytes of another image than the teacher saw as this row."""
        known = digest(data if isinstance(data, bytes) else np.ascontiguousarray(data).data)
        if self.store.rows_of([known])[0] != row and int(self.store.digests[row]) != known:
            remedy = "find the row of an image with rows_of"
            raise DataChanged(f"{self.store.path}, row {row}", "the bytes of its image", "those of another", remedy)


def renewed() -> None:
    """In a child that was forked while another thread rendered, nobody would let go of the lock."""
    global one_at_a_time
    one_at_a_time = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=renewed)
