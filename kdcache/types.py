"""The nouns that every layer shares. Plain data, next to no behaviour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Look: TypeAlias = "Mapping[str, Tensor]"
"""What a network shows for a batch: `logits`, `emb`, and taps such as `f2.pre`."""

Knowledge: TypeAlias = "Mapping[str, Tensor]"
"""What a teacher leaves behind: row i of every tensor speaks of sample i only."""

Numbers: TypeAlias = "Sequence[int] | np.ndarray"
"""Whole numbers that say which: rows, views, items; a list, a range or an array of them."""

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""The shape of one row of every tensor of a Look or of Knowledge."""


def quiet(items, **_):
    """Stands in for a progress bar, or for a function that says something, where nothing is to be shown."""
    return items


@dataclass
class Batch:
    """Sample-views on their way to a network, each with its number: v*N+i is row i of N in view v."""

    images: Tensor  # uint8 [n, 3, h, w]
    targets: Tensor  # int64 [n], -1 where there is no label
    items: np.ndarray  # int64 [n]
    rows_per_view: int  # N
    epoch: int | None = None  # counted from 1; None: past every warm-up
    others: Tensor | None = None  # of mixed images: int64 [n], the targets of what was mixed in
    shares: Tensor | None = None  # and f32 [n], how much of each is its own
    seeds: np.ndarray | None = None  # int64 [n], what they were rendered with
    epochs: int | None = None  # how many there are; None: nobody knows
    known: np.ndarray | None = None  # bool [n], which of them the teacher has answered; None: all
    whole: tuple[Tensor, int] | None = None  # of a part of a batch: the labels in all of it, and its rows

    def __len__(self) -> int:
        return len(self.items)

    def part(self, rows: slice | np.ndarray) -> Batch:
        """Some of its rows."""
        each = ("images", "targets", "items", "others", "shares", "seeds", "known")
        held = ((name, getattr(self, name)) for name in each)  # pixels that nobody needs may be none
        return replace(self, **{name: value[rows] for name, value in held if value is not None and len(value)})

    @property
    def rows(self) -> np.ndarray:
        return self.items % self.rows_per_view

    @property
    def views(self) -> np.ndarray:
        return self.items // self.rows_per_view
