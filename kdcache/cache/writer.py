"""Filling a cache file so that it survives a kill at any moment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.cache.blocks import Blocks
from kdcache.cache.claims import Claims
from kdcache.cache.intact import require_seal_if_any
from kdcache.cache.layout import DONE, Layout, read_layout, sealed_crc
from kdcache.cache.meta import REMEDY
from kdcache.durable import Words, part_of, publish, refused, require_name, write
from kdcache.errors import CacheError
from kdcache.ranks import Ranks


class Writer(Blocks):
    """Fills the blocks of an X.part. A context manager: what was put is kept, however the context is left.

    Order: records, now and then an fsync, then the words that mark the blocks done; so no word is written before its
    block is on the disk. Raises FileNotFoundError where there is no X.part, or no longer.
    """

    def __init__(self, path: Path, ranks: Ranks = Ranks()):  # noqa: B008 - frozen
        self.path, self.part = path, part_of(path)
        try:
            self.file = open(self.part, "r+b")  # noqa: SIM115 - held while the dump runs
        except FileNotFoundError:
            raise
        except OSError as error:
            raise refused(self.part, error) from None
        self.marks = Words(self.file, path)
        try:
            self.layout: Layout = read_layout(self.part)
            self.claims = self.entered(ranks)
            self.stored: list[int] = []  # words of claimed blocks that are written, but not marked yet
            require_seal_if_any(self)
        except CacheError as error:
            self.file.close()
            if not self.part.exists():
                raise FileNotFoundError(self.part) from None
            if error.remedy == REMEDY:  # the same command would meet it again
                remedy = "remove it, and give the command again"
                raise CacheError(error.place, error.expected, error.found, remedy) from None
            raise

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            if self.marks.waiting:
                self.sync(always=True)
        except CacheError:
            if kind is None:
                raise
        finally:
            self.close()

    def entered(self, ranks: Ranks) -> Claims:
        """Refuses a second dump at the same file, whose bits may differ; the ranks of one dump are there together."""
        claims = Claims(self.file, ranks)
        if not claims.entered:
            remedy = "wait for it, or name another file with `out`"
            raise CacheError(self.part, "no other dump at work on it", "one", remedy)
        require_name(self.part, self.file)
        return claims

    def take(self, datasets: Sequence[str], view: int, block: int) -> bool:
        """Whether this process is to fill a block of these: it is not done, and no other rank is at it."""
        words = [self.layout.word_offset(dataset, view, block) for dataset in datasets]
        if self.marked(words) or not self.claims.take(words[0]):
            return False
        if self.marked(words):  # by a rank that has just left it
            self.claims.give(words[0])
            return False
        return True

    def marked(self, words: Sequence[int]) -> bool:
        return all(int.from_bytes(self._read(offset, 8), "little") >> 32 == DONE >> 32 for offset in words)

    def complete(self) -> bool:
        return not any(self.missing(name) for name in self.layout.filled())

    def progress(self) -> int:
        """How many blocks are done, by whomever."""
        return sum(int(self.done(name).sum()) for name in self.layout.filled())

    def constants(self) -> dict[str, torch.Tensor]:
        """What the method made of the teacher when the file was begun."""
        names = [name for name in self.layout.places if name.startswith("constants/")]
        return {name.removeprefix("constants/"): torch.from_numpy(self.array(name)) for name in names}

    def put(self, dataset: str, view: int, block: int, data) -> None:
        """Writes one block of records."""
        offset, length, _ = self.layout.span(dataset, view, block)
        data = np.ascontiguousarray(data).data.cast("B")
        assert len(data) == length, (dataset, len(data), length)
        self._write(data, offset)
        word = self.layout.word_offset(dataset, view, block)
        self.marks.put(word, self.layout.word(dataset, view, block, data))
        if word in self.claims.held:
            self.stored.append(word)

    def sync(self, always: bool = False) -> None:
        """Flushes the blocks that were put to the disk, then marks them done."""
        self.marks.sync(always)
        while self.stored and not self.marks.waiting:
            self.claims.give(self.stored.pop())

    def finish_unless_others(self) -> bool:
        """Whether the file has its final name, given by this rank or by another one that was first."""
        if not self.path.exists() and self.claims.take(self.layout.places["seal"].offset) and not self.path.exists():
            self.finish()
        return self.path.exists()

    def finish(self) -> None:
        """Gives the file its final name, once every block is done; seals it where an earlier version began it."""
        self.sync(always=True)
        assert self.complete(), self.part
        if not require_seal_if_any(self):
            seal = sealed_crc(self.layout, self.file).to_bytes(4, "little")
            self._write(seal, self.layout.places["seal"].offset)
        try:
            publish(self.file, self.part, self.path)
        except OSError as error:
            raise refused(self.path, error) from None
        self.close()

    def _write(self, data, offset: int) -> None:
        try:
            write(self.file.fileno(), data, offset)
        except OSError as error:
            raise refused(self.path, error) from None


def blocks_done(layout: Layout) -> tuple[int, int]:
    """How many blocks of all datasets are done, and how many are to be in this file."""
    with Blocks(layout) as blocks:
        total = sum(int(layout.share(name).sum()) for name in layout.filled())
        return total - sum(blocks.missing(name) for name in layout.filled()), total
