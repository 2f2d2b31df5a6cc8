"""Reading a finished cache: a gather on a read-only memory map, decoded as a batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.cache.base import Held
from kdcache.cache.mapped import Mapped

if TYPE_CHECKING:
    from torch import Tensor


class Cache(Mapped):
    """A finished cache file. No locks, no open HDF5 handle: safe in forked and in spawned workers.

    >>> cache = open_cache("logits.h5")
    >>> len(cache), cache.views
    (1437, 10)
    >>> cache.read(view=0, rows=[5, 3, 3])["logits"].shape
    torch.Size([3, 10])
    >>> with open_cache("logits.h5") as cache:  # lets go of the file afterwards
    ...     labels = cache.labels
    """

    @property
    def constants(self) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array) for name, array in self._below("constants/").items()}

    def decode(self, name: str, records: Tensor) -> Tensor:
        """Stored bytes, on any device, as f32."""
        return self.layout.codecs[name].decode(records)

    def hold(self, view: int, names: Sequence[str], device) -> Held:
        kept = {name: torch.from_numpy(self.records(name, view, range(self._rows))).to(device) for name in names}
        return lambda rows: {name: self.decode(name, records[rows]) for name, records in kept.items()}

    def _decode(self, kind: str, name: str, items: np.ndarray, device) -> Tensor:
        records = torch.from_numpy(self._bytes(f"{kind}/{name}", items))
        if device != "cpu":
            records = records.to(device, non_blocking=True)
        return self.decode(name, records)


def open_cache(path: str | os.PathLike, check: bool = True, folder: str | os.PathLike | None = None) -> Cache:
    """A finished cache. `check=False` leaves out the CRCs on first touch.

    Of an address, as https://example.org/logits.h5 or s3://bucket/logits.h5, what is read is kept in `folder`; without
    one where the environment variable KDCACHE_MIRROR says, else in ~/.cache/kdcache/remote.
    """
    return Cache(path, check, folder)
