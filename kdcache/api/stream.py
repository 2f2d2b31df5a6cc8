"""What a teacher saw and said of images that come one after the other."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from kdcache.api.dataset import Named
from kdcache.cache import Store, open_cache
from kdcache.cache.bound import seeds_of_unknown
from kdcache.checks import one_of
from kdcache.errors import DataChanged, KdcacheWarning
from kdcache.jobs import MISSING
from kdcache.proof.canaries import changed_packages
from kdcache.sources.adopted import Item, digest_of, readable, taken_apart
from kdcache.sources.decode import PACKAGES

if TYPE_CHECKING:
    from torch import Tensor

UNKNOWN = "`missing` skip leaves such images out, plain gives them without an answer; or dump again"


class CachedStream(IterableDataset):
    """Images of any iterable, found by content: (uint8 image, label, teacher's logits), as `CachedDataset` has them.

    An item is an image, as bytes, a path, uint8 pixels or a PIL image; alone, with a label, or in a dict, as WebDataset
    and Hugging Face have it. `missing` says what becomes of images that the cache does not know: they are refused;
    "skip" leaves them out; "plain" gives them with zeros, and a fourth part says of each whether its answer is known.

    Which view a row shows is a matter of the row, the epoch and `seed`; `set_epoch` reaches workers that live on.
    Streams of torch divide themselves among workers; of other iterables, each worker takes its share.

    >>> import kdcache
    >>> data = kdcache.CachedDataset("logits.h5")
    >>> stream = CachedStream("logits.h5", (pixels for pixels in data.source.read([7, 5, 3])))
    >>> image, label, answer = next(iter(stream))
    >>> label == int(data.source.labels[7])
    True
    """

    def __init__(
        self, path: str | os.PathLike | Store, images: Iterable, name: str = "logits", augment: str | None = None, *,
        names: Sequence[str] | None = None, missing: str = "refuse", seed: int = 0,
    ):  # fmt: skip
        self.cache = path if isinstance(path, Store) else open_cache(path)
        self.missing, self.augment, self.seed = one_of("`missing`", missing, MISSING), augment, seed
        self.named = Named.of(self.cache, name, names)
        self.images, self.view = readable(images), self.cache.renderer.view(augment)
        self.spec = type(images).__name__
        self.shown = torch.zeros(1, dtype=torch.int64).share_memory_()
        if changed := changed_packages(self.cache.meta["libraries"], (*PACKAGES, *self.view.plain.packages)):
            unproved = "the pixels of a stream are not compared with what the teacher saw: `kdcache verify` does so"
            warnings.warn(f"{self.cache.path}: {changed}; {unproved}", KdcacheWarning, stacklevel=2)
        self.cache.lookup  # noqa: B018 made once, before workers are forked

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.shown.share_memory_()  # a copy is not, by itself

    def set_epoch(self, epoch: int) -> None:
        """Goes on to an epoch, from 0, in every process; so does the stream itself, if it has epochs."""
        self.cache.require_unchanged()
        self.shown.fill_(epoch)
        if hasattr(self.images, "set_epoch"):
            self.images.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple]:
        epoch = int(self.shown)
        for number, item in shared(self.images):
            found = taken_apart(f"{self.spec}, item {number}", item)
            digest = np.array([digest_of(found.image)], dtype=np.uint64)
            row = int(self.cache.rows_of(digest)[0])
            if row >= 0:
                yield self.answered(number, found, row, epoch)
            elif self.missing == "refuse":
                expected, place = "images that the teacher saw", f"{self.cache.path} on {self.spec}"
                raise DataChanged(place, expected, f"item {number}, which it did not", UNKNOWN)
            elif self.missing == "plain":
                yield self.plain(number, found, digest, epoch)

    def answered(self, number: int, found: Item, row: int, epoch: int) -> tuple:
        label, stored = found.label, int(self.cache.labels_of([row])[0])
        if -1 not in (label, stored) and label != stored:  # perhaps the same bytes lie in two classes
            same = np.flatnonzero(self.cache.digests == self.cache.digests[row])
            row = next((int(one) for one in same if self.cache.labels_of([int(one)])[0] == label), -1)
        if row < 0:
            expected, remedy = f"label {stored}, as the cache has it", "number the classes alike, or dump again"
            raise DataChanged(f"{self.cache.path} on {self.spec}, item {number}", expected, f"label {label}", remedy)
        items = np.array([self.cache.view_at(row, epoch, self.seed) * len(self.cache) + row])
        image = self.image(number, found, self.cache.seeds_of(items))
        [answer] = self.named.rows(self.cache.gather(items, self.named.names))
        parts = image, stored if label < 0 else label, answer
        return (*parts, True) if self.missing == "plain" else parts

    def plain(self, number: int, found: Item, digest: np.ndarray, epoch: int) -> tuple:
        views = np.array([epoch % self.cache.views])
        image = self.image(number, found, seeds_of_unknown(self.cache, self.view, views, digest))
        nothing = {name: torch.zeros(1, *self.cache.shapes[name]) for name in self.named.names}
        return image, found.label, self.named.rows(nothing)[0], False

    def image(self, number: int, found: Item, seeds: np.ndarray) -> Tensor:
        return self.cache.renderer.show(f"{self.spec}, item {number}", seeds, found.image, self.augment)


def shared(images: Iterable) -> Iterator[tuple[int, object]]:
    """The items of this worker, numbered; what is a stream of torch's divides itself."""
    worker = get_worker_info()
    if worker is None or isinstance(images, IterableDataset):
        return enumerate(images)
    return islice(enumerate(images), worker.id, None, worker.num_workers)
