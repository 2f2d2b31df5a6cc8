"""A finished cache file by a read-only memory map: its records, seeds and identities, and whether they are intact."""

from __future__ import annotations

import abc
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdcache.cache.base import Store
from kdcache.cache.intact import require_finished
from kdcache.cache.layout import Layout, read_layout
from kdcache.checks import is_url, whole_numbers
from kdcache.errors import CacheError, UsageError
from kdcache.types import Numbers, Shapes

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.cache.mirror import Mirror


@dataclass
class MappedDataset:
    """A dataset as this process sees it."""

    flat: np.ndarray  # one record after the other; what is no plain number is opaque bytes, which NumPy gathers fastest
    unchecked: np.ndarray | None  # which blocks' CRC was not looked at so far; None once nothing is left to look at


class Mapped(Store):
    """The part of reading that needs NumPy alone. No locks, no open HDF5 handle: safe in forked and spawned workers."""

    def __init__(self, path: str | os.PathLike, check: bool = True, folder: str | os.PathLike | None = None):
        self.mirror = mirror_of(os.fspath(path), folder) if is_url(path) else None
        self.path = self.mirror.path if self.mirror else Path(path)
        self.layout, self.seal = self.mirror.opened(checked) if self.mirror else checked(self.path)
        self.check = check or self.mirror is not None
        self._rows, self._views = self.layout.rows, self.layout.views
        self._map: mmap.mmap | None = None
        self._mapped: tuple = ()  # what file that is
        self._tables: dict[str, MappedDataset] = {}

    @property
    def name(self) -> str:
        return self.mirror.url if self.mirror else str(self.path)

    @property
    def meta(self) -> dict:
        return self.layout.meta

    @property
    def files(self) -> Sequence[Store]:
        return [self]

    @property
    def views(self) -> int:
        return self._views

    @property
    def shapes(self) -> Shapes:
        return {name: tuple(codec.shape) for name, codec in self.layout.codecs.items()}

    @property
    def names(self) -> list[str]:
        return list(self.layout.codecs)

    @property
    def labels(self) -> np.ndarray:
        return self._table("labels").flat.astype(np.int64)

    @property
    def digests(self) -> np.ndarray:
        return self._gather("digests", np.arange(len(self)))

    @property
    def eval_digests(self) -> np.ndarray | None:
        """uint64 [M]: a hash of each evaluation image; a file of version 1 has none."""
        return self._table("eval_digests").flat if "eval_digests" in self.layout.places else None

    @property
    def eval_labels(self) -> np.ndarray | None:
        """int64 [M]: the label of each evaluation image, -1 where there is none; a file of version 1 has none."""
        return self._table("eval_labels").flat.astype(np.int64) if "eval_labels" in self.layout.places else None

    @property
    def canaries(self) -> dict[str, np.ndarray]:
        return self._below("canaries/")

    def __len__(self) -> int:
        return self._rows

    def close(self) -> None:
        self._map, self._tables = None, {}  # what was read from it may still be in use: the last user unmaps it

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_map": None, "_tables": {}}

    def gather(self, items: np.ndarray, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        return self._taken(whole_numbers(self.path, "item numbers", items, self._rows * self._views), names, device)

    def read(
        self, view: int | Numbers, rows: Numbers, names: Sequence[str] | None = None, device="cpu"
    ) -> dict[str, Tensor]:
        return self._taken(self.items(view, rows), names, device)  # checked there, and not a second time

    def _taken(self, items: np.ndarray, names: Sequence[str] | None, device) -> dict[str, Tensor]:
        return {name: self._decode("knowledge", name, items, device) for name in self._known(names)}

    def read_eval(self, rows: Numbers, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        rows = whole_numbers(self.path, "evaluation rows", rows, self.meta["eval"]["rows"])
        return {name: self._decode("eval", name, rows, device) for name in self._known(names) if self.has_eval(name)}

    @abc.abstractmethod
    def _decode(self, kind: str, name: str, items: np.ndarray, device):
        """Knowledge (of `kind` "knowledge" or "eval") of these items as f32."""

    def seeds_of(self, items: np.ndarray) -> np.ndarray:
        return self._gather("seeds", whole_numbers(self.path, "item numbers", items, self._rows * self._views)).view(
            np.int64
        )

    def top1(self, view: int | Numbers, rows: Numbers) -> np.ndarray:
        return self.layout.codecs["logits"].top1(self.records("logits", view, rows))

    def eval_top1(self, rows: Numbers) -> np.ndarray:
        rows = whole_numbers(self.path, "evaluation rows", rows, self.meta["eval"]["rows"])
        return self.layout.codecs["logits"].top1(self._bytes("eval/logits", rows))

    def records(self, name: str, view: int | Numbers, rows: Numbers) -> np.ndarray:
        """The stored bytes of knowledge, undecoded: uint8 [n, record size]."""
        return self._bytes(f"knowledge/{self._known([name])[0]}", self.items(view, rows))

    def advise(self, view: int, names: Sequence[str]) -> None:
        for name in names:
            place = self.layout.places[f"knowledge/{name}"]
            start = place.offset + view * self._rows * place.dtype.itemsize
            first = start - start % mmap.PAGESIZE
            self._open().madvise(mmap.MADV_WILLNEED, first, start + self._rows * place.dtype.itemsize - first)

    def require_unchanged(self) -> None:
        if self.mirror:
            self.mirror.require_unchanged()
        if self.mirror or self._map is None:  # a mirror is written to
            return
        try:
            now = identity(os.stat(self.path))
        except FileNotFoundError:  # a map outlives its file
            return
        except OSError as error:
            raise CacheError(self.path, "the file that was opened", str(error), "put it back") from None
        if now != self._mapped:
            what = ("another one under its name", f"{now[1]} bytes of {self._mapped[1]}", "one written to since")
            which = next(which for which in range(3) if now[which] != self._mapped[which])
            raise CacheError(self.path, "the file that was opened", what[which], "put it back, and open it again")

    def has_eval(self, name: str) -> bool:
        return f"eval/{name}" in self.layout.places

    def bytes_of_view(self, names: Sequence[str]) -> int:
        return self._rows * sum(self.layout.codecs[name].size for name in names)

    def block_is_right(self, dataset: str, view: int, block: int) -> bool:
        """Whether a block is marked done, its bytes have the stored CRC, and its codec can have written them."""
        return not self.fault(dataset, view, block)

    def fault(self, dataset: str, view: int, block: int) -> str:
        """What is wrong with a block, in a few words."""
        offset, length, _ = self.layout.span(dataset, view, block)
        return self._fault_in(memoryview(self._open())[offset : offset + length], dataset, view, block)

    def _fault_in(self, data, dataset: str, view: int, block: int) -> str:
        word = int(self._table(f"blocks/{dataset}").flat[view * self.layout.blocks(dataset)[1] + block])
        if word != self.layout.word(dataset, view, block, data):
            return "a wrong CRC"
        codec = self.layout.codecs.get(dataset.partition("/")[2])
        return codec.fault(np.frombuffer(data, np.uint8).reshape(-1, codec.size)) if codec else ""

    def padding(self) -> int | None:
        """How many bytes between structures and data are not zero; None where libhdf5 has left a group dense."""
        if self.layout.spans is None:
            return None
        found, end, data = 0, 0, memoryview(self._open())
        for first, last in sorted(
            [*self.layout.spans, *(p.span for p in self.layout.places.values()), (len(data),) * 2]
        ):
            found += first - end - bytes(data[end:first]).count(0)
            end = last
        return found

    def _known(self, names: Sequence[str] | None) -> Sequence[str]:
        if names is None:
            return self.names
        names = [names] if isinstance(names, str) else names
        for name in names:
            if name not in self.layout.codecs:
                raise UsageError(
                    self.path, f"knowledge out of {', '.join(self.names)}", repr(name), "name one of these"
                )
        return names

    def _bytes(self, dataset: str, items: np.ndarray) -> np.ndarray:
        records = self._gather(dataset, items)
        return records.view(np.uint8).reshape(len(items), records.itemsize)

    def _gather(self, dataset: str, items: np.ndarray) -> np.ndarray:
        table = self._table(dataset)
        if (unchecked := table.unchecked) is not None:  # another thread may have looked at the last one meanwhile
            self._look_at(dataset, table, unchecked, items)
        return table.flat.take(items)

    def _look_at(self, dataset: str, table: MappedDataset, unchecked: np.ndarray, items: np.ndarray) -> None:
        """Checks the CRC of every block that is touched for the first time; fetches what a mirror does not have."""
        per_view = self.layout.blocks(dataset)[1]
        views, rows = np.divmod(items, self.layout.places[dataset].shape[-1])
        blocks = views * per_view + rows // self.layout.block_rows
        new = blocks[unchecked.take(blocks)]
        if not len(new):
            return
        blocks = [divmod(block, per_view) for block in np.unique(new).tolist()]
        faults = {block: fault for block in blocks if (fault := self.fault(dataset, *block))}
        if faults and self.mirror:
            self._fetch(self.mirror, dataset, list(faults))
            faults = {block: fault for block in faults if (fault := self.fault(dataset, *block))}
        for (view, block), fault in faults.items():
            found = f"{fault} in block {block} of view {view}"
            remedy = "`kdcache verify` shows the extent; copy or dump it again"
            raise CacheError(f"{self.name}:/{dataset}", "intact data", found, remedy)
        unchecked[[view * per_view + block for view, block in blocks]] = False
        if not unchecked.any():
            table.unchecked = None

    def _fetch(self, mirror: Mirror, dataset: str, blocks: Sequence[tuple[int, int]]) -> None:
        """Brings blocks into the mirror, those that are right."""
        places = {self.layout.span(dataset, *block)[:2]: block for block in blocks}
        for span, data in mirror.fetch(list(places)):
            if not self._fault_in(data, dataset, *places[span]):
                mirror.keep(span[0], data, self._mapped[0])

    def _open(self) -> mmap.mmap:
        if self._map is None:
            try:
                with open(self.path, "rb") as file:
                    found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    self._mapped = identity(os.fstat(file.fileno()))
            except (OSError, ValueError) as error:
                raise CacheError(self.path, "the file that was opened", str(error), "put it back") from None
            place = self.layout.places["seal"].offset
            if int.from_bytes(found[place : place + 4], "little") != self.seal:  # a worker may open it much later
                raise CacheError(self.path, "the file that was opened", "another one under its name", "open it again")
            self._map = found
        return self._map

    def _table(self, dataset: str) -> MappedDataset:
        table = self._tables.get(dataset)
        if table is None:
            place = self.layout.places[dataset]
            plain = place.dtype.kind in "iufb"
            dtype = place.dtype if plain else np.dtype((np.void, place.dtype.itemsize))
            flat = np.frombuffer(self._open(), dtype, place.nbytes // dtype.itemsize, place.offset)
            to_check = self.check and dataset in self.layout.filled()
            unchecked = np.ones(self.layout.places[f"blocks/{dataset}"].nbytes // 8, dtype=bool) if to_check else None
            table = self._tables[dataset] = MappedDataset(flat, unchecked)
        return table

    def _below(self, prefix: str) -> dict[str, np.ndarray]:
        places = {name: place for name, place in self.layout.places.items() if name.startswith(prefix)}
        return {n.removeprefix(prefix): self._table(n).flat.reshape(p.shape).copy() for n, p in places.items()}


def mirror_of(url: str, folder: str | os.PathLike | None = None) -> Mirror:
    from kdcache.cache.mirror import Mirror  # who reads a file here does not pay for what talks to servers

    return Mirror(url, folder)


def checked(path: Path) -> tuple[Layout, int]:
    """A finished file's layout and seal."""
    layout = read_layout(path)
    return layout, require_finished(layout)


def identity(stat: os.stat_result) -> tuple[object, int, int]:
    """Which file it is, its size, and when it was written to."""
    return (stat.st_dev, stat.st_ino), stat.st_size, stat.st_mtime_ns
