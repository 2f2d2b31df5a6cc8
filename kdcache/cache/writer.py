"""Filling a cache file so that it survives a kill at any moment."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.cache.blocks import Blocks
from kdcache.cache.intact import require_seal_if_any
from kdcache.cache.layout import Layout, part_of, read_layout, sealed_crc
from kdcache.durable import Words, publish, refused, require_name, write
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
            self.lock(ranks)
            require_seal_if_any(self)
        except CacheError:
            self.file.close()
            if not self.part.exists():
                raise FileNotFoundError(self.part) from None
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

    def lock(self, ranks: Ranks) -> None:
        """Refuses a second dump at the same file, whose bits may differ; the ranks of one dump each lock a byte.

        Such a lock is this process's alone (its workers do not hold it) and goes when the process does. It would go
        with any other handle on the file, too, so nothing else opens the file from here on.
        """
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, int(ranks.world > 1), ranks.rank)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                remedy = "wait for it, or name another file with `out`"
                raise CacheError(self.part, "no other dump at work on it", "one", remedy) from None
        require_name(self.part, self.file)

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
        data = memoryview(np.ascontiguousarray(data)).cast("B")
        assert len(data) == length, (dataset, len(data), length)
        self._write(data, offset)
        self.marks.put(self.layout.word_offset(dataset, view, block), self.layout.word(dataset, view, block, data))

    def sync(self, always: bool = False) -> None:
        """Flushes the blocks that were put to the disk, then marks them done."""
        self.marks.sync(always)

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
