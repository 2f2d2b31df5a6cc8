"""Blocks of some rows of a file, put together out of its blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdcache.cache.blocks import Blocks
from kdcache.cache.layout import word_of
from kdcache.types import Numbers


@dataclass
class RowReading:
    """The rows to keep, in growing order, of a file; `origin` names the views of each dataset."""

    file: Blocks
    origin: Mapping[str, Sequence[int]]
    rows: np.ndarray

    def read(self, dataset: str, view: int, block: int) -> bytes:
        """A block of the rows that are kept; evaluation answers are kept as they are."""
        view = self.origin[dataset][view]
        if dataset.startswith("eval/"):
            return self.file.block(dataset, view, block)
        size, width = self.file.layout.block_rows, self.file.layout.places[dataset].dtype.itemsize
        old, place = np.divmod(self.rows[block * size : (block + 1) * size], size)
        pieces = []
        for one in np.unique(old).tolist():
            records = np.frombuffer(self.file.block(dataset, view, one), np.uint8).reshape(-1, width)
            pieces.append(records[place[old == one]])
        return np.concatenate(pieces).tobytes()

    def words(self, dataset: str) -> np.ndarray:
        """What is to be said of these blocks, for which each of them is read."""
        layout = self.file.layout
        rows = layout.places[dataset].shape[-1] if dataset.startswith("eval/") else len(self.rows)
        found = np.zeros((len(self.origin[dataset]), -(-rows // layout.block_rows)), np.uint64)
        for view, block in np.ndindex(found.shape):
            found[view, block] = word_of(layout.version, dataset, view, block, self.read(dataset, view, block))
        return found


def of_rows(known: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """What was known when a file was begun, of some of its rows."""
    kept = {name: known[name][rows] for name in ("labels", "digests")}
    return with_canaries_of({**known, **kept}, "row", rows)


def with_canaries_of(known: Mapping[str, np.ndarray], what: str, numbers: Numbers) -> dict[str, np.ndarray]:
    """Those canaries alone whose row, or view, is among these, under its new number."""
    found, name = dict(known), f"canaries/{what}"
    stay = np.isin(found[name], numbers) if name in found else np.zeros(0, bool)
    for one in [one for one in found if one.startswith("canaries/")]:
        found[one] = found[one][stay]
        if not stay.any():
            del found[one]
    if stay.any():
        found[name] = np.searchsorted(numbers, found[name])
    return found
