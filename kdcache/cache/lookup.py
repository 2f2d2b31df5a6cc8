"""Rows by content: an image is found by the digest of its bytes, whatever its file is called by now."""

from __future__ import annotations

import operator

import numpy as np

from kdcache.checks import array_of
from kdcache.errors import UsageError
from kdcache.types import Numbers

TOGETHER = 1 << 18  # look-ups that are sorted at a time: neighbours then meet in the processor's cache


class Lookup:
    """Digest -> row, in 12 bytes a row. Images of the same bytes share the first row that has them.

    >>> Lookup(np.uint64([7, 3, 7])).rows_of([3, 7, 5])
    array([ 1,  0, -1])
    """

    def __init__(self, digests: np.ndarray):
        order = np.argsort(digests, kind="stable")
        self.digests, self.rows = digests[order], order.astype(np.uint32)

    @property
    def nbytes(self) -> int:
        return self.digests.nbytes + self.rows.nbytes

    def rows_of(self, digests: Numbers) -> np.ndarray:
        """int64 [n]; -1 where no image has that digest."""
        wanted = as_digests(digests)
        found = np.full(len(wanted), -1, dtype=np.int64)
        for start in range(0, len(wanted) if len(self.rows) else 0, TOGETHER):
            part = wanted[start : start + TOGETHER]
            order = np.argsort(part)
            part = part[order]
            place = self.digests.searchsorted(part)  # the first of equal ones, which is the lowest row
            place[place == len(self.digests)] = 0
            found[start + order] = np.where(self.digests[place] == part, self.rows[place], np.int64(-1))
        return found


def as_digests(digests: Numbers) -> np.ndarray:
    """uint64 [n]; of int64 the same bits. What is no whole number is refused: floats would round."""
    given = array_of(digests)
    if not hasattr(digests, "dtype"):  # NumPy makes floats of a list with large numbers
        try:
            given = np.array([operator.index(one) for one in digests], np.uint64)
        except (OverflowError, TypeError):
            given = np.asarray(digests, dtype=object)
    given = given.view(np.uint64) if given.dtype == np.int64 else given
    if given.dtype != np.uint64 or given.ndim != 1:
        found = f"{given.dtype}{list(given.shape)}"
        raise UsageError("digests", "a list of 64-bit whole numbers", found, "kdcache.digest makes one of an image")
    return given
