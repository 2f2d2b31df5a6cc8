"""Reading caches with NumPy alone: no torch, no h5py, wherever answers are all that is wanted.

>>> import kdcache.read
>>> with kdcache.read.open_cache("logits.h5") as cache:
...     cache.read(view=0, rows=[5, 3, 3])["logits"].shape
(3, 10)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np

from kdcache.cache.mapped import Mapped
from kdcache.errors import UsageError

__all__ = ["ArrayCache", "open_cache"]


class ArrayCache(Mapped):
    """A finished cache, checked and read as `kdcache.open_cache` does, whose answers are NumPy arrays.

    >>> cache = open_cache("logits.h5")
    >>> cache.names, cache.shapes["logits"], len(cache.labels)
    (['logits'], (10,), 1437)
    >>> cache.read(0, [5])["logits"].dtype
    dtype('float32')
    """

    @property
    def constants(self) -> dict[str, np.ndarray]:
        return self._below("constants/")

    def decode(self, name: str, records: np.ndarray) -> np.ndarray:
        """Stored bytes as f32."""
        return self.layout.codecs[name].decode_numpy(records)

    def hold(self, view: int, names: Sequence[str], device="cpu") -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        require_cpu(device)
        kept = {name: self.records(name, view, range(len(self))) for name in names}
        return lambda rows: {name: self.decode(name, records[rows]) for name, records in kept.items()}

    def _decode(self, kind: str, name: str, items: np.ndarray, device) -> np.ndarray:
        require_cpu(device)
        return self.decode(name, self._bytes(f"{kind}/{name}", items))


def require_cpu(device: object) -> None:
    if device != "cpu":
        raise UsageError("`device`", "cpu, where NumPy's arrays lie", str(device), "open it with kdcache.open_cache")


def open_cache(path: str | os.PathLike, check: bool = True, folder: str | os.PathLike | None = None) -> ArrayCache:
    """A finished cache. `check=False` leaves out the CRCs on first touch.

    Of an address, as https://example.org/logits.h5 or s3://bucket/logits.h5, what is read is kept in `folder`; without
    one where the environment variable KDCACHE_MIRROR says, else in ~/.cache/kdcache/remote.
    """
    return ArrayCache(path, check, folder)
