"""Sample-views on their way from a source to a network.

    item numbers v*N+i  ->  seeds, images  ->  view.render  ->  Batch

Small sources and native views render on the training device, whole batches at a time. So do packs: on a CPU in threads,
which have nothing to send, and for which NumPy lets go of Python's lock. Files and library views render in worker
processes, which live as long as their Loader, so that no epoch pays for starting them.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdcache.errors import KdcacheError
from kdcache.seeds import permutation
from kdcache.sources import Source
from kdcache.types import Batch
from kdcache.views import Mixed, View, seeds_of

AHEAD = 4  # batches that each worker renders before they are asked for


class Seeds(Protocol):
    """Gives the seeds of sample-views: a cache reads them, `Seeded` draws them under a key."""

    @property
    def known(self) -> np.ndarray | None:
        """bool [N], which rows a teacher has answered; None: all of them, or nobody asked one."""

    def seeds_of(self, items: np.ndarray) -> np.ndarray:
        """int64, one for each item number."""


class Seeded:
    """Seeds drawn under a key; it can be sent to a worker. View 0 is view `first` of that key."""

    known = None

    def __init__(self, view: View, key: int, rows: int, first: int = 0):
        self.view, self.key, self.rows, self.first = view, key, rows, first

    def seeds_of(self, items: np.ndarray) -> np.ndarray:
        views, rows = np.divmod(items, self.rows)
        return seeds_of(self.view, self.key, views + self.first, rows)


class Rendered(Dataset):
    """Item numbers to rendered images: what workers run."""

    def __init__(self, read: Callable, rows: int, view: View, seeds: Seeds):
        self.read, self.rows, self.view, self.seeds = read, rows, view, seeds

    def __len__(self) -> int:
        return self.rows

    def render(self, items: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """The images, and the seeds that they were rendered with."""
        seeds = self.seeds.seeds_of(items)
        return self.shown(items, seeds), seeds

    def shown(self, items: np.ndarray, seeds: np.ndarray) -> Tensor:
        return self.view.show(self.read, items % self.rows, torch.from_numpy(seeds))

    def __getitems__(self, items) -> tuple[np.ndarray, Tensor | KdcacheError, np.ndarray | None]:
        """In a worker: an error that the user can act on is returned, since torch would rewrite one that is raised."""
        items = np.asarray(items, dtype=np.int64)
        try:
            return items, *self.render(items)
        except KdcacheError as error:
            return items, error, None


class Plan:
    """The batches of item numbers that persistent workers are to render next."""

    def __init__(self) -> None:
        self.batches: Iterable[np.ndarray] = ()

    def __iter__(self):
        return iter(self.batches)


class Loader:
    """Turns batches of item numbers into Batches; `workers=0` renders in this process and thread."""

    def __init__(self, source: Source, view: View, seeds: Seeds | int, device="cpu", workers: int = 0):
        self.seeds = Seeded(view, seeds, len(source)) if isinstance(seeds, int) else seeds
        self.source, self.view, self.device = source, view, torch.device(device)
        self.mixing = view.mixing if isinstance(view, Mixed) else None
        self.targets = torch.from_numpy(source.labels).to(self.device)
        self.resident, self.workers, self.threads = None, None, 0
        self.plan = Plan()
        if source.resident is not None and view.native:
            self.resident = source.resident.to(self.device)
            self.rendered = Rendered(self.taken, len(source), view, self.seeds)
            return
        if source.raw and view.native:
            self.rendered = Rendered(self.moved, len(source), view, self.seeds)
            self.threads = workers if self.device.type == "cpu" else 0
            return
        self.rendered = Rendered(source.read, len(source), view, self.seeds)
        self.workers = self.started(workers) if workers else None

    def started(self, workers: int) -> DataLoader:
        """Workers that live on from the first pass."""
        pin = self.device.type == "cuda"
        own = torch.Generator()  # or every epoch would draw from the global one, and dropout depend on `workers`
        return DataLoader(
            self.rendered, batch_sampler=self.plan, num_workers=workers, collate_fn=identity, pin_memory=pin,
            persistent_workers=True, prefetch_factor=AHEAD, generator=own,
        )  # fmt: skip

    def expect(self, digests: np.ndarray) -> None:
        """From now on, an image that does not have its digest is an error: in new workers, which know of it."""
        self.source.expect(digests)
        if self.workers is not None:
            self.workers = self.started(self.workers.num_workers)

    def run(self, plan: Iterable[np.ndarray], epoch: int | None = None, pixels: bool = True) -> Iterator[Batch]:
        """One Batch for every array of item numbers; without pixels, its images are empty."""
        if not pixels:
            empty = torch.empty(0, dtype=torch.uint8)
            yield from (self.batch(items, empty, self.seeds.seeds_of(items), epoch) for items in plan)
            return
        if self.threads:
            yield from self.ahead(plan, epoch)
            return
        if self.workers is None:
            yield from (self.show(items, epoch) for items in plan)
            return
        self.plan.batches = plan
        for items, images, seeds in self.workers:
            if isinstance(images, KdcacheError):
                raise copy.copy(images)  # itself, it would lie in a cycle with this frame, and hold the workers
            yield self.batch(items, images, seeds, epoch)

    def dismiss(self) -> None:
        """Ends the workers; whatever is still asked for is rendered in this process."""
        self.workers, self.threads = None, 0

    def ahead(self, plan: Iterable[np.ndarray], epoch: int | None) -> Iterator[Batch]:
        """The batches in order, rendered by threads; their seeds are read here, since a cache is read by one."""
        pool, waiting = ThreadPoolExecutor(self.threads), deque[tuple[np.ndarray, np.ndarray, Future[Tensor]]]()
        try:
            for items in plan:
                seeds = self.seeds.seeds_of(items)
                waiting.append((items, seeds, pool.submit(self.rendered.shown, items, seeds)))
                if len(waiting) > AHEAD * self.threads:
                    items, seeds, images = waiting.popleft()
                    yield self.batch(items, images.result(), seeds, epoch)
            for items, seeds, images in waiting:
                yield self.batch(items, images.result(), seeds, epoch)
        finally:
            pool.shutdown(cancel_futures=True)

    def show(self, items: np.ndarray, epoch: int | None = None) -> Batch:
        """One Batch, rendered in this process."""
        items = np.asarray(items, dtype=np.int64)
        return self.batch(items, *self.rendered.render(items), epoch)

    def images(self, items: np.ndarray) -> Tensor:
        """The rendered images alone."""
        return self.show(items).images

    def taken(self, rows: np.ndarray) -> Tensor:
        """The images of these rows, where all of them lie on the device."""
        assert self.resident is not None
        return self.resident.index_select(0, torch.from_numpy(rows).to(self.device))

    def moved(self, rows: np.ndarray) -> Tensor | list[Tensor]:
        """The images of these rows, brought to the device as they are stored."""
        images = self.source.read(rows)
        if isinstance(images, Tensor):
            return images.to(self.device, non_blocking=True)
        return [image.to(self.device, non_blocking=True) for image in images]

    def batch(self, items: np.ndarray, images: Tensor, seeds: np.ndarray, epoch: int | None) -> Batch:
        n = len(self.source)
        targets = self.targets[torch.from_numpy(items % n).to(self.device)]
        batch = Batch(images.to(self.device, non_blocking=True), targets, items, n, epoch, seeds=seeds)
        if self.seeds.known is not None:
            batch.known = self.seeds.known[items % n]
        if isinstance(self.view, Mixed):
            batch.others = self.targets[torch.from_numpy(self.view.partners(seeds)).to(self.device)]
            batch.shares = self.view.kept(seeds).to(self.device)
        return batch


def identity(batch):
    return batch


def training_plan(rows: int, views: int, epoch: int, batch: int, seed: int, together: int = 1) -> list[np.ndarray]:
    """Item numbers of one epoch (from 1) in a keyed order; epoch e shows view e-1, starting over after the last.

    Where a step shows several views `together`, an epoch shows the next so many: each batch of rows in one view after
    the other. A last batch of one row is left out: batch norm cannot use it, and a forward of it rounds differently.
    """
    order = permutation(rows, seed, epoch)
    batches = [order[start : start + batch] for start in range(0, rows, batch)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches.pop()
    first = (epoch - 1) % (views // together) * together
    return [np.concatenate([view * rows + part for view in range(first, first + together)]) for part in batches]


def straight_plan(rows: Iterable[int], batch: int) -> list[np.ndarray]:
    """Item numbers in order."""
    items = np.fromiter(rows, dtype=np.int64)
    return [items[start : start + batch] for start in range(0, len(items), batch)]
