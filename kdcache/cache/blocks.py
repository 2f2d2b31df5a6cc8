"""The blocks of a file as they lie on the disk, finished or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from kdcache.cache.layout import CHUNK, DONE, Layout
from kdcache.cache.meta import REMEDY
from kdcache.durable import read
from kdcache.errors import CacheError


class Blocks:
    """An open file by its layout. A context."""

    def __init__(self, layout: Layout):
        self.layout = layout
        try:
            self.file: BinaryIO = open(layout.path, "rb")  # noqa: SIM115 - held for as long as it is read
        except OSError as error:
            raise CacheError(
                layout.path, "a readable file", error.strerror or str(error), "check its mode and owner"
            ) from None

    def __enter__(self) -> Blocks:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()

    @property
    def meta(self) -> dict:
        return self.layout.meta

    @property
    def canaries(self) -> dict[str, np.ndarray]:
        names = [name for name in self.layout.places if name.startswith("canaries/")]
        return {name.removeprefix("canaries/"): self.array(name) for name in names}

    @property
    def digests(self) -> np.ndarray:
        return self.array("digests")

    def words(self, dataset: str) -> np.ndarray:
        """The word of each block, u64 [V, NB]: DONE and a CRC, or 0 where it is not done."""
        return self.array(f"blocks/{dataset}").reshape(self.layout.blocks(dataset))

    def done(self, dataset: str) -> np.ndarray:
        """Which blocks are on disk: bool [V, NB]."""
        return self.words(dataset) >> np.uint64(32) == DONE >> 32

    def missing(self, dataset: str) -> int:
        """How many blocks are not done that are to be in this file."""
        return int((self.layout.share(dataset) & ~self.done(dataset)).sum())

    def array(self, name: str) -> np.ndarray:
        """A whole dataset: one that was known when the file was begun, or what is said of blocks."""
        place = self.layout.places[name]
        return np.frombuffer(bytearray(self._read(place.offset, place.nbytes)), place.dtype).reshape(place.shape)

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """The same, a part at a time: labels of a billion rows take 4 GB."""
        place = self.layout.places[name]
        for start in range(0, place.nbytes, CHUNK):
            yield np.frombuffer(self._read(place.offset + start, min(CHUNK, place.nbytes - start)), place.dtype)

    def require_blocks(self, dataset: str) -> None:
        """Checks every block of a dataset."""
        for view, block in np.ndindex(self.layout.blocks(dataset)):
            self.block(dataset, view, block)

    def block(self, dataset: str, view: int, block: int) -> bytes:
        """The bytes of one block, checked."""
        offset, length, _ = self.layout.span(dataset, view, block)
        data = self._read(offset, length)
        word = self._read(self.layout.word_offset(dataset, view, block), 8)
        if int.from_bytes(word, "little") != self.layout.word(dataset, view, block, data):
            found = f"a wrong CRC in block {block} of view {view}"
            raise CacheError(f"{self.layout.path}:/{dataset}", "intact data", found, REMEDY)
        return data

    def _read(self, offset: int, length: int) -> bytes:
        return read(self.file.fileno(), length, offset)
