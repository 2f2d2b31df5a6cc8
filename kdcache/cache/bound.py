"""A cache under the rows of another data set: the same images by content, and perhaps some that it does not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.cache.base import Held, Store
from kdcache.cache.renumbered import Renumbered
from kdcache.checks import whole_numbers
from kdcache.types import Numbers
from kdcache.views import View, seeds_of
from kdcache.wording import count

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Evaluated:
    """The evaluation images of the other data set, and their rows in the cache."""

    meta: dict  # as it stands in a header: rows, and the fingerprint
    rows: np.ndarray
    digests: np.ndarray
    labels: np.ndarray


class Bound(Renumbered):
    """What `whole` says of images, by the rows of another data set; `rows` are those of the cache, -1 where none is.

    Of an image that it does not know, answers are zeros, `known` is false, and seeds are drawn from its digest, so that
    it is shown alike wherever it lies.
    """

    def __init__(
        self, whole: Store, rows: np.ndarray, source: dict, digests: np.ndarray, view: View,
        evaluated: Evaluated | None = None,
    ):  # fmt: skip
        super().__init__(whole, rows, source)
        self._digests, self.view, self.evaluated = digests, view, evaluated

    @cached_property
    def known(self) -> np.ndarray | None:
        there = self.rows >= 0
        return None if there.all() else there

    @property
    def meta(self) -> dict:
        held_out = self.evaluated.meta if self.evaluated else {"rows": 0}
        return self.whole.meta | {"source": self.source, "eval": held_out}

    @property
    def views(self) -> int:
        return self.whole.views

    @property
    def labels(self) -> np.ndarray:
        """Of the images that it knows."""
        return np.where(self.rows >= 0, self.whole.labels_of(self.rows.clip(0)), -1)

    @property
    def digests(self) -> np.ndarray:
        return self._digests

    @property
    def eval_digests(self) -> np.ndarray | None:
        return self.evaluated.digests if self.evaluated else None

    @property
    def eval_labels(self) -> np.ndarray | None:
        return self.evaluated.labels if self.evaluated else None

    @cached_property
    def canaries(self) -> Mapping[str, np.ndarray]:
        """Those of the images that are there, under their new numbers; none where none is left."""
        found = self.whole.canaries
        if not found:
            return {}
        first = np.full(len(self.whole), -1)
        there = np.flatnonzero(self.rows >= 0)[::-1]
        first[self.rows[there]] = there
        stay = first[found["row"]] >= 0
        if not stay.any():
            return {}
        return {name: values[stay] for name, values in found.items()} | {"row": first[found["row"][stay]]}

    @property
    def notes(self) -> Sequence[str]:
        there = self.rows >= 0
        found = f"{len(np.unique(self.rows[there])):,} of {count(len(self.whole), 'row')} of {self.path}"
        more = len(there) - int(there.sum())
        others = f"; {count(more, 'image')} that it does not know: learnt from labels alone" if more else ""
        return [*self.whole.notes, f"images: {found} found by content{others}"]

    def split(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The item numbers of the cache, 0 where it has none, and which those are that it has."""
        items = whole_numbers(self.path, "item numbers", items, len(self) * self.views)
        views, rows = np.divmod(items, len(self))
        rows = self.rows[rows]
        return np.where(rows >= 0, views * len(self.whole) + rows, 0), rows >= 0

    def gather(self, items: np.ndarray, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        numbers, there = self.split(items)
        found = self.whole.gather(numbers, names, device)
        return found if there.all() else without(found, torch.from_numpy(there).to(device))

    def seeds_of(self, items: np.ndarray) -> np.ndarray:
        numbers, there = self.split(items)
        seeds = self.whole.seeds_of(numbers)
        if not there.all():
            views, rows = np.divmod(np.asarray(items)[~there], len(self))
            seeds = seeds.copy()
            seeds[~there] = seeds_of_unknown(self.whole, self.view, views, self._digests[rows])
        return seeds

    def has_eval(self, name: str) -> bool:
        return self.evaluated is not None and self.whole.has_eval(name)

    def read_eval(self, rows: Numbers, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        assert self.evaluated is not None  # `has_eval` has said so
        rows = whole_numbers(self.path, "evaluation rows", rows, len(self.evaluated.rows))
        return self.whole.read_eval(self.evaluated.rows[rows], names, device)

    def hold(self, view: int, names: Sequence[str], device) -> Held:
        held, rows = self.whole.hold(view, names, device), torch.from_numpy(self.rows).to(device)

        def read(some: Tensor) -> dict[str, Tensor]:
            there = rows[some]
            return without(held(there.clamp(min=0)), there >= 0)

        return read


def seeds_of_unknown(cache: Store, view: View, views: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Seeds for images that a cache does not know: part of the digest stands for the row."""
    first = cache.meta.get("first_view", 0)
    seeds = seeds_of(view, cache.meta["run_key"], views + first, (digests >> np.uint64(33)).astype(np.int64))
    return seeds & ~1 | cache.seeds_of(views * len(cache)) & 1 if view.alternates else seeds  # weak or strong


def without(knowledge: dict[str, Tensor], there: Tensor) -> dict[str, Tensor]:
    """The same with zeros where there is none."""
    return {name: value.where(there.view(-1, *[1] * (value.ndim - 1)), 0) for name, value in knowledge.items()}
