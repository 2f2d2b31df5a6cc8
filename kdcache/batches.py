"""Sample-views on their way from a source to a network.

    item numbers v*N+i  ->  rows and views  ->  seeds, images  ->  view.render  ->  Batch

Small sources and native views render on the training device, whole batches at a time. Files and library views
render in workers, which live as long as their Loader, so that no epoch pays for starting them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdcache.errors import KdcacheError
from kdcache.seeds import permutation
from kdcache.sources import Source
from kdcache.types import Batch
from kdcache.views import View, seeds_of

Seeds = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Seeds of sample-views: (views, rows) -> int64."""


class Rendered(Dataset):
    """Item numbers to rendered images: what workers run."""

    def __init__(self, source: Source, view: View, seeds: Seeds):
        self.source, self.view, self.seeds = source, view, seeds

    def __len__(self) -> int:
        return len(self.source)

    def render(self, items: np.ndarray) -> Tensor:
        views, rows = np.divmod(items, len(self.source))
        return self.view.show(self.source.read, rows, torch.from_numpy(self.seeds(views, rows)))

    def __getitems__(self, items) -> tuple[Tensor | KdcacheError, np.ndarray]:
        """In a worker: an error that the user can act on is returned, since torch would rewrite one that is raised."""
        items = np.asarray(items, dtype=np.int64)
        try:
            return self.render(items), items
        except KdcacheError as error:
            return error, items


class Plan:
    """The batches of item numbers that persistent workers are to render next."""

    def __init__(self):
        self.batches: Iterable[np.ndarray] = ()

    def __iter__(self):
        return iter(self.batches)


class Loader:
    """Turns batches of item numbers into Batches; `workers=0` renders in this process."""

    def __init__(self, source: Source, view: View, seeds: Seeds | int, device="cpu", workers: int = 0):
        self.seeds = seeds if callable(seeds) else Seeded(view, seeds)
        self.source, self.view, self.device = source, view, torch.device(device)
        self.mixing = view.mixing if view.mixes else None
        self.targets = torch.from_numpy(source.labels).to(self.device)
        self.resident = self.workers = None
        self.dataset = Rendered(source, view, self.seeds)
        self.plan = Plan()
        if source.resident is not None and view.native:
            self.resident = source.resident.to(self.device)
        elif workers:
            pin = self.device.type == "cuda"
            own = torch.Generator()  # or every epoch would draw from the global one, and dropout depend on `workers`
            self.workers = DataLoader(
                self.dataset, batch_sampler=self.plan, num_workers=workers, collate_fn=identity, pin_memory=pin,
                persistent_workers=True, prefetch_factor=4, generator=own,
            )  # fmt: skip

    def run(self, plan: Iterable[np.ndarray], epoch: int | None = None, pixels: bool = True) -> Iterator[Batch]:
        """One Batch for every array of item numbers; without pixels, its images are empty."""
        if not pixels:
            empty = torch.empty(0, dtype=torch.uint8)
            yield from (self.batch(empty, items, epoch) for items in plan)
            return
        if self.workers is None:
            for items in plan:
                yield self.batch(self.images(items), items, epoch)
            return
        self.plan.batches = plan
        for images, items in self.workers:
            if isinstance(images, KdcacheError):
                raise copy.copy(images)  # itself, it would lie in a cycle with this frame, and hold the workers
            yield self.batch(images.to(self.device, non_blocking=True), items, epoch)

    def images(self, items: np.ndarray) -> Tensor:
        if self.resident is None:
            return self.dataset.render(items).to(self.device, non_blocking=True)
        views, rows = np.divmod(items, len(self.source))
        seeds = torch.from_numpy(self.seeds(views, rows))
        return self.view.show(self.taken, rows, seeds)

    def taken(self, rows: np.ndarray) -> Tensor:
        """Images that lie on the device."""
        return self.resident.index_select(0, torch.from_numpy(rows).to(self.device))

    def batch(self, images: Tensor, items: np.ndarray, epoch: int | None) -> Batch:
        views, rows = np.divmod(items, len(self.source))
        parts = torch.from_numpy(rows), torch.from_numpy(views)
        batch = Batch(images, self.targets[parts[0].to(self.device)], *parts, epoch)
        if self.view.mixes:
            seeds = self.seeds(views, rows)
            batch.others = self.targets[torch.from_numpy(self.view.partners(seeds)).to(self.device)]
            batch.shares = self.view.kept(seeds).to(self.device)
        return batch


class Seeded:
    """`seeds_of` under a run key, in a form that a worker can be sent; view 0 may be a later one."""

    def __init__(self, view: View, key: int, first: int = 0):
        self.view, self.key, self.first = view, key, first

    def __call__(self, views, rows):
        return seeds_of(self.view, self.key, np.asarray(views) + self.first, rows)


def identity(batch):
    return batch


def training_plan(rows: int, views: int, epoch: int, batch: int, seed: int) -> list[np.ndarray]:
    """Item numbers of one epoch (from 1) in a keyed order; epoch e shows view e-1, starting over after the last.

    A last batch of one is left out: batch norm cannot use it, and a forward of one row rounds differently.
    """
    items = (epoch - 1) % views * rows + permutation(rows, seed, epoch)
    batches = [items[start : start + batch] for start in range(0, rows, batch)]
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def straight_plan(rows: Iterable[int], batch: int) -> list[np.ndarray]:
    """Item numbers in order."""
    items = np.fromiter(rows, dtype=np.int64)
    return [items[start : start + batch] for start in range(0, len(items), batch)]
