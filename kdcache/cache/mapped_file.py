"""A finished cache file as a process sees it, a read-only memory map, whose blocks are checked when first touched."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdcache.cache.intact import require_finished
from kdcache.cache.layout import Layout, read_layout
from kdcache.checks import is_url
from kdcache.errors import CacheError

if TYPE_CHECKING:
    from kdcache.cache.mirror import Mirror

AHEAD = 1 << 26  # bytes of blocks that the system is told of before the first of them is looked at


@dataclass
class MappedDataset:
    """A dataset as this process sees it."""

    flat: np.ndarray  # one record after the other; what is no plain number is opaque bytes, which NumPy gathers fastest
    unchecked: np.ndarray | None  # which blocks' CRC was not looked at so far; None once nothing is left to look at


class MappedFile:
    """No locks, no open HDF5 handle: safe in forked and spawned workers."""

    def __init__(self, path: str | os.PathLike, check: bool = True, folder: str | os.PathLike | None = None):
        self.mirror = mirror_of(os.fspath(path), folder) if is_url(path) else None
        self.path = self.mirror.path if self.mirror else Path(path)
        self.place = self.path.absolute()  # the program may go to another folder before it reads
        self.layout, self.seal = self.mirror.opened(checked) if self.mirror else checked(self.path)
        self.check = check or self.mirror is not None
        self._rows, self._views = self.layout.rows, self.layout.views
        self._map: mmap.mmap | None = None
        self._mapped: tuple = ()  # what file that is
        self._tables: dict[str, MappedDataset] = {}

    @property
    def name(self) -> str:
        return self.mirror.url if self.mirror else str(self.path)

    def close(self) -> None:
        self._map, self._tables = None, {}  # what was read from it may still be in use: the last user unmaps it

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_map": None, "_tables": {}}

    def require_unchanged(self) -> None:
        if self.mirror:
            self.mirror.require_unchanged()
        if self.mirror or self._map is None:  # a mirror is written to
            return
        try:
            now = identity(os.stat(self.place))
        except FileNotFoundError:  # a map outlives its file
            return
        except OSError as error:
            raise CacheError(self.path, "the file that was opened", str(error), "put it back") from None
        if now != self._mapped:
            what = ("another one under its name", f"{now[1]} bytes of {self._mapped[1]}", "one written to since")
            which = next(which for which in range(3) if now[which] != self._mapped[which])
            raise CacheError(self.path, "the file that was opened", what[which], "put it back, and open it again")

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
        if dataset == "labels":
            return self._fault_in_labels(np.frombuffer(data, "<i4"))
        codec = self.layout.codecs.get(dataset.partition("/")[2])
        return codec.fault(np.frombuffer(data, np.uint8).reshape(-1, codec.size)) if codec else ""

    def _fault_in_labels(self, labels: np.ndarray) -> str:
        classes = len(self.layout.meta["source"]["classes"])
        worst = next((label for label in (labels.min(), labels.max()) if not -1 <= label < classes), None)
        return "" if worst is None else f"label {worst}"

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

    def _checked(self, dataset: str, items: np.ndarray) -> MappedDataset:
        """The dataset, once the CRC of every block that these items touch for the first time is right."""
        table = self._table(dataset)
        if (unchecked := table.unchecked) is None:  # another thread may have looked at the last one meanwhile
            return table
        per_view = self.layout.blocks(dataset)[1]
        views, rows = np.divmod(items, self.layout.places[dataset].shape[-1])
        blocks = views * per_view + rows // self.layout.block_rows
        new = np.unique(blocks[unchecked.take(blocks)])
        step = max(1, AHEAD // self.layout.span(dataset, 0, 0)[1])
        for start in range(0, len(new), step):
            part = new[start : start + step]
            self._look_at(dataset, [divmod(block, per_view) for block in part.tolist()])
            unchecked[part] = False
        if len(new) and not unchecked.any():
            table.unchecked = None
        return table

    def _look_at(self, dataset: str, blocks: Sequence[tuple[int, int]]) -> None:
        """Checks the CRC of blocks; fetches what a mirror does not have."""
        self._announce([self.layout.span(dataset, *block)[:2] for block in blocks])
        faults = {block: fault for block in blocks if (fault := self.fault(dataset, *block))}
        if faults and self.mirror:
            self._fetch(self.mirror, dataset, list(faults))
            faults = {block: fault for block in faults if (fault := self.fault(dataset, *block))}
        for (view, block), fault in faults.items():
            found = f"{fault} in block {block} of view {view}"
            remedy = "`kdcache verify` shows the extent; copy or dump it again"
            raise CacheError(f"{self.name}:/{dataset}", "intact data", found, remedy)

    def _announce(self, spans: Sequence[tuple[int, int]]) -> None:
        """Has the system read these spans, in growing order, side by side: a page fault would wait for each, and for
        as much around it as it deems fit."""
        runs: list[list[int]] = []
        for offset, length in spans:
            if not runs or offset > runs[-1][1]:
                runs.append([offset - offset % mmap.PAGESIZE, 0])
            runs[-1][1] = offset + length
        for first, end in runs:
            self._open().madvise(mmap.MADV_WILLNEED, first, end - first)

    def _fetch(self, mirror: Mirror, dataset: str, blocks: Sequence[tuple[int, int]]) -> None:
        """Brings blocks into the mirror, those that are right."""
        places = {self.layout.span(dataset, *block)[:2]: block for block in blocks}
        for span, data in mirror.fetch(list(places)):
            if not self._fault_in(data, dataset, *places[span]):
                mirror.keep(span[0], data, self._mapped[0])

    def _open(self) -> mmap.mmap:
        if self._map is None:
            try:
                with open(self.place, "rb") as file:
                    found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    self._mapped = identity(os.fstat(file.fileno()))
            except (OSError, ValueError) as error:
                raise CacheError(self.path, "the file that was opened", str(error), "put it back") from None
            place = self.layout.places["seal"].offset
            short = len(found) < max(place.span[1] for place in self.layout.places.values())
            if short or int.from_bytes(found[place : place + 4], "little") != self.seal:  # it may be opened much later
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
