"""A cache under other row numbers: what does not depend on them is that of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kdcache.cache.base import Store
from kdcache.types import Shapes

if TYPE_CHECKING:
    from torch import Tensor


class Renumbered(Store):
    """`whole`, by `rows`: of each row its number there."""

    def __init__(self, whole: Store, rows: np.ndarray, source: dict):
        self.whole, self.path, self.rows, self.source = whole, whole.path, rows, source

    @property
    def files(self) -> Sequence[Store]:
        return self.whole.files

    @property
    def shapes(self) -> Shapes:
        return self.whole.shapes

    @property
    def constants(self) -> Mapping[str, Tensor]:
        return self.whole.constants

    def __len__(self) -> int:
        return len(self.rows)

    def advise(self, view: int, names: Sequence[str]) -> None:
        self.whole.advise(view, names)

    def bytes_of_view(self, names: Sequence[str]) -> int:
        return self.whole.bytes_of_view(names)
