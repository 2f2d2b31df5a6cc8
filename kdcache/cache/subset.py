"""Some rows and views of a cache, as a cache of its own that reads them from the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.cache.base import Held, Store
from kdcache.cache.renumbered import Renumbered
from kdcache.checks import Range, whole_numbers
from kdcache.types import Numbers

if TYPE_CHECKING:
    from torch import Tensor


class Subset(Renumbered):
    """These rows, in growing order, under numbers from 0, in the first of its views or all; all evaluation answers.

    >>> from kdcache.cache import open_cache
    >>> Subset(open_cache("logits.h5"), [3, 5], {}).read(view=0, rows=[1])["logits"].shape  # of row 5
    torch.Size([1, 10])
    """

    def __init__(self, whole: Store, rows: Numbers | None, source: dict | None = None, views: int | None = None,
        *, judged: bool = True,
    ):  # fmt: skip
        rows = np.arange(len(whole)) if rows is None else whole_numbers(whole.path, "rows", rows, len(whole))
        super().__init__(whole, np.unique(rows), whole.meta["source"] if source is None else source)
        self.judged = judged  # whether the evaluation images are those that it has answers to
        least = Range(1, whole.views, whole=True)
        self.first = whole.views if views is None else int(least.checked("`views`", views))

    @property
    def meta(self) -> dict:
        return self.whole.meta | {"source": self.source, "views": self.views}

    @property
    def views(self) -> int:
        return self.first

    @property
    def labels(self) -> np.ndarray:
        return self.whole.labels_of(self.rows)

    def labels_of(self, rows: Numbers) -> np.ndarray:
        return self.whole.labels_of(self.rows[rows])

    @property
    def digests(self) -> np.ndarray:
        return self.whole.digests[self.rows]

    @cached_property
    def known(self) -> np.ndarray | None:
        return None if self.whole.known is None else self.whole.known[self.rows]

    @property
    def eval_digests(self) -> np.ndarray | None:
        return self.whole.eval_digests

    @property
    def eval_labels(self) -> np.ndarray | None:
        return self.whole.eval_labels

    @property
    def canaries(self) -> Mapping[str, np.ndarray]:
        """Those of these rows and views, under their new numbers; none where none is left."""
        found = self.whole.canaries
        stay = np.isin(found["row"], self.rows) & (found["view"] < self.views) if found else np.zeros(0, bool)
        if not stay.any():
            return {}
        kept = {name: values[stay] for name, values in found.items()}
        return kept | {"row": np.searchsorted(self.rows, kept["row"])}

    @property
    def notes(self) -> Sequence[str]:
        return self.whole.notes

    def gather(self, items: np.ndarray, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        return self.whole.gather(self.items_of_whole(items), names, device)

    def seeds_of(self, items: np.ndarray) -> np.ndarray:
        return self.whole.seeds_of(self.items_of_whole(items))

    def items_of_whole(self, items: np.ndarray) -> np.ndarray:
        items = whole_numbers(self.path, "item numbers", items, len(self) * self.views)
        views, rows = np.divmod(items, len(self))
        return views * len(self.whole) + self.rows[rows]

    def has_eval(self, name: str) -> bool:
        return self.judged and self.whole.has_eval(name)

    def read_eval(self, rows: Numbers, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        return self.whole.read_eval(rows, names, device)

    def hold(self, view: int, names: Sequence[str], device) -> Held:
        held, rows = self.whole.hold(view, names, device), torch.from_numpy(self.rows).to(device)
        return lambda some: held(rows[some])
