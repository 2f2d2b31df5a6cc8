"""Reading a finished cache: a gather on a read-only memory map, decoded as a batch."""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcache.cache.layout import DONE, Layout, read_layout, sealed_crc
from kdcache.errors import CacheError, UsageError


class Cache:
    """A finished cache file. No locks, no open HDF5 handle: safe in forked and in spawned workers.

    >>> cache = open_cache("logits.h5")
    >>> len(cache), cache.views
    (1437, 10)
    >>> cache.read(view=0, rows=[5, 3, 3])["logits"].shape
    torch.Size([3, 10])
    """

    def __init__(self, path: str | os.PathLike, check: bool = True):
        self.path = Path(path)
        self.layout: Layout = read_layout(self.path)
        self.check = check
        self._map: mmap.mmap | None = None
        self._tables: dict[str, np.ndarray] = {}  # a dataset as a flat array of records
        self._trusted: dict[str, np.ndarray] = {}  # its blocks whose CRC was right
        require_finished(self.layout)

    @property
    def meta(self) -> dict:
        """The header: source, view, teacher, forward settings, knowledge."""
        return self.layout.meta

    @property
    def views(self) -> int:
        return self.layout.views

    @property
    def classes(self) -> list[str]:
        return self.meta["source"]["classes"]

    @property
    def names(self) -> list[str]:
        """The names of the knowledge in it."""
        return list(self.layout.codecs)

    @property
    def labels(self) -> np.ndarray:
        """int64 [N]; -1 where there is none."""
        return self._table("labels").astype(np.int64)

    @property
    def digests(self) -> np.ndarray:
        return self._table("digests").copy()

    @property
    def constants(self) -> dict[str, Tensor]:
        """What a method made of the teacher before the dump."""
        return {n.removeprefix("constants/"): torch.from_numpy(a) for n, a in self._small("constants/").items()}

    @property
    def canaries(self) -> dict[str, np.ndarray]:
        """Some sample-views that prove that replay still gives what the teacher saw."""
        return {name.removeprefix("canaries/"): array for name, array in self._small("canaries/").items()}

    def __len__(self) -> int:
        return self.layout.rows

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_map": None, "_tables": {}, "_trusted": {}}

    def read(self, view: int | Sequence[int], rows: Sequence[int], names: Sequence[str] | None = None, device="cpu"):
        """Knowledge of these rows in a view (or in one view each), decoded to f32, in the order asked for."""
        items = self._items(view, rows)
        return {name: self._decode(f"knowledge/{name}", items, name, device) for name in names or self.names}

    def read_eval(self, rows: Sequence[int], names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        """What the teacher said of un-augmented evaluation images."""
        rows = np.asarray(rows, dtype=np.int64)
        held = [name for name in names or self.names if f"eval/{name}" in self.layout.places]
        return {name: self._decode(f"eval/{name}", rows, name, device) for name in held}

    def seeds(self, view: int | Sequence[int], rows: Sequence[int]) -> np.ndarray:
        """The augmentation seeds of sample-views, as int64 bit patterns."""
        return self._gather("seeds", self._items(view, rows)).view(np.int64)

    def records(self, name: str, view: int | Sequence[int], rows: Sequence[int]) -> np.ndarray:
        """The stored bytes of knowledge, undecoded: uint8 [n, record size]."""
        return self._bytes(f"knowledge/{name}", self._items(view, rows))

    def _items(self, view, rows) -> np.ndarray:
        rows, view = np.asarray(rows, dtype=np.int64), np.asarray(view, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise UsageError(self.path, f"rows from 0 to {len(self) - 1}", f"{rows.min()} to {rows.max()}", "check them")
        if view.size and (view.min() < 0 or view.max() >= self.views):
            found = f"{view.min()} to {view.max()}"
            raise UsageError(self.path, f"views from 0 to {self.views - 1}", found, "take the view modulo `views`")
        return view * len(self) + rows

    def _decode(self, dataset: str, items: np.ndarray, name: str, device) -> Tensor:
        records = torch.from_numpy(self._bytes(dataset, items)).to(device, non_blocking=True)
        return self.layout.codecs[name].decode(records)

    def _bytes(self, dataset: str, items: np.ndarray) -> np.ndarray:
        return self._gather(dataset, items).view(np.uint8).reshape(len(items), -1)

    def _gather(self, dataset: str, items: np.ndarray) -> np.ndarray:
        table = self._table(dataset)
        if self.check:
            self._trust(dataset, items)
        return table.take(items)

    def _trust(self, dataset: str, items: np.ndarray) -> None:
        """Checks the CRC of every block that is touched for the first time."""
        rows = self.layout.places[dataset].shape[-1]
        per_view = self.layout.blocks(dataset)[1]
        blocks = items // self.layout.block_rows if rows == len(self._table(dataset)) else (
            items // rows * per_view + items % rows // self.layout.block_rows
        )
        trusted = self._trusted.get(dataset)
        if trusted is None:
            trusted = self._trusted[dataset] = np.zeros(self._table(f"blocks/{dataset}").size, dtype=bool)
        seen = trusted.take(blocks)
        if not seen.all():
            for block in np.unique(blocks[~seen]).tolist():
                if not self.block_is_right(dataset, block // per_view, block % per_view):
                    remedy = "`kdcache verify` shows the extent; copy or dump it again"
                    place = f"{self.path}:/{dataset}"
                    raise CacheError(place, "intact data", f"a wrong CRC in block {block}", remedy)
                trusted[block] = True

    def block_is_right(self, dataset: str, view: int, block: int) -> bool:
        """Whether a block is marked done and its bytes have the stored CRC."""
        offset, length, _ = self.layout.span(dataset, view, block)
        word = int(self._table(f"blocks/{dataset}")[view * self.layout.blocks(dataset)[1] + block])
        return word == DONE | zlib.crc32(memoryview(self._open())[offset : offset + length])

    def _open(self) -> mmap.mmap:
        if self._map is None:
            with open(self.path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map

    def _table(self, dataset: str) -> np.ndarray:
        """A dataset as a flat array; records as opaque bytes, which NumPy gathers fastest."""
        if dataset not in self._tables:
            place = self.layout.places[dataset]
            plain = place.dtype.kind in "iuf" and place.dtype.subdtype is None
            dtype = place.dtype if plain else np.dtype((np.void, place.dtype.itemsize))
            count = place.nbytes // dtype.itemsize
            self._tables[dataset] = np.frombuffer(self._open(), dtype, count, place.offset)
        return self._tables[dataset]

    def _small(self, prefix: str) -> dict[str, np.ndarray]:
        places = {name: place for name, place in self.layout.places.items() if name.startswith(prefix)}
        return {name: self._table(name).reshape(place.shape).copy() for name, place in places.items()}


def open_cache(path: str | os.PathLike, check: bool = True) -> Cache:
    """A finished cache. `check=False` leaves out the CRCs on first touch."""
    return Cache(path, check)


def require_finished(layout: Layout) -> None:
    """Refuses a file with open blocks or a wrong seal, whatever its name."""
    with open(layout.path, "rb") as file:
        for name in layout.filled():
            place = layout.places[f"blocks/{name}"]
            words = np.frombuffer(os.pread(file.fileno(), place.nbytes, place.offset), dtype="<u8")
            missing = int((words >> np.uint64(32) != DONE >> 32).sum())
            if missing:
                found = f"{missing} of {words.size} blocks of {name} missing"
                raise CacheError(layout.path, "a finished cache", found, "run the same dump-logits again to finish it")
        place = layout.places["seal"]
        seal = int.from_bytes(os.pread(file.fileno(), 4, place.offset), "little")
        if seal != sealed_crc(layout, file):
            raise CacheError(layout.path, "an intact header", "a wrong seal", "copy or dump it again")


