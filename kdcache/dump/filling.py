"""Blocks on their way to the disk: while one is encoded and written, the next is computed.

loader (its workers ahead) -> teacher -> a few batches wait -> encode, checksum, pwrite, fsync, in a thread
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from torch import Tensor

from kdcache.batches import Loader
from kdcache.cache import Writer
from kdcache.cache.layout import Layout
from kdcache.cache.share import Shard
from kdcache.codecs import Codec
from kdcache.errors import CacheError, UsageError
from kdcache.teachers import Dumped, require_finite
from kdcache.types import Knowledge, quiet

WAITING = 3  # batches of answers


class WriterThread:
    """Runs actions one after the other in a thread of its own; `do` waits while WAITING of them are not yet done.

    After an error no further action is run, for each relies on those before it; it is raised by `do`, or at the end.
    """

    def __init__(self):
        self.thread = ThreadPoolExecutor(1)
        self.pending: deque[Future] = deque()
        self.failed = False

    def do(self, action: Callable, *arguments) -> None:
        while len(self.pending) >= WAITING:
            self.pending.popleft().result()
        self.pending.append(self.thread.submit(self.attempt, action, *arguments))

    def attempt(self, action: Callable, *arguments) -> None:
        if self.failed:
            return
        try:
            action(*arguments)
        except BaseException:
            self.failed = True
            raise

    def __enter__(self) -> WriterThread:
        return self

    def __exit__(self, kind, *_) -> None:
        """Finishes the actions that were given, so that an interruption loses little."""
        self.thread.shutdown()
        while kind is None and self.pending:
            self.pending.popleft().result()


class Block:
    """The records of some rows in one view, batch by batch."""

    def __init__(self, writer: Writer, kind: str, view: int, number: int):
        self.writer, self.kind, self.view, self.number = writer, kind, view, number
        self.parts: list[dict[str, np.ndarray]] = []
        self.seeds: list[np.ndarray] = []

    def add(self, rows: np.ndarray, seeds: np.ndarray, knowledge: Knowledge) -> None:
        require_finite("the teacher", knowledge, rows)
        codecs, part, views = self.writer.layout.codecs, self.writer.part, np.full(len(rows), self.view)
        self.seeds.append(seeds)
        try:
            records = {n: encoded(codecs[n], f"{self.kind}/{n}", value, rows, views) for n, value in knowledge.items()}
        except UsageError as error:  # no probe had shown it: not the request is wrong, but a file that was begun
            remedy = f"rm {shlex.quote(str(part))}, then dump again with codec f32"
            raise CacheError(part, error.expected, error.found, remedy) from None
        self.parts.append({name: of.cpu().numpy() for name, of in records.items()})

    def store(self) -> None:
        if self.kind == "knowledge":  # renderings of evaluation images have no seeds
            self.writer.put("seeds", self.view, self.number, np.concatenate(self.seeds).view("<u8"))
        for name in self.writer.layout.codecs:
            records = np.concatenate([part[name] for part in self.parts])
            self.writer.put(f"{self.kind}/{name}", self.view, self.number, records)
        self.writer.sync()


def encoded(codec: Codec, name: str, values: Tensor, rows: np.ndarray, views: np.ndarray) -> Tensor:
    """The records; of values that the codec cannot hold, the largest is named with its row and view."""
    try:
        return codec.encode(values)
    except UsageError as error:
        worst = int(values.abs().flatten(1).amax(1).argmax())
        found = f"{error.found} in {name} of row {rows[worst]}, view {views[worst]}"
        raise UsageError(error.place, error.expected, found, error.remedy) from None


def fill(
    writer: Writer, teacher: Dumped, loader: Loader, held_out: Loader | None, share: Shard,
    progress=quiet,
) -> None:  # fmt: skip
    """Fills every block of this share that is not done yet, of the training images and of the evaluation images."""
    names = writer.layout.codecs
    with WriterThread() as thread:
        todo = undone(writer, ["seeds", *(f"knowledge/{name}" for name in names)], share)
        fill_blocks(writer, teacher, loader, "knowledge", todo, thread, progress)
        if held_out:
            todo = undone(writer, [f"eval/{name}" for name in names], share)
            fill_blocks(writer, teacher, held_out, "eval", todo, thread, progress)
    writer.sync(always=True)


def fill_blocks(
    writer: Writer, teacher: Dumped, loader: Loader, kind: str, todo: list, thread: WriterThread, progress
) -> None:
    """Fills these blocks. A block is always cut into the same batches, which decide the last bits of the answers."""
    size, n, layout = teacher.forward.batch, len(loader.source), writer.layout
    spans = ((view, block_rows(layout, block, n)) for view, block in todo)
    plan = (view * n + rows[start : start + size] for view, rows in spans for start in range(0, len(rows), size))
    batches = loader.run(plan, pixels=teacher.sees)
    counted = {"unit": "images", "scale": min(layout.block_rows, n)}
    for view, number in progress(todo, total=len(todo), desc=f"dumping {kind}", **counted):
        block = Block(writer, kind, view, number)
        for _ in range(0, len(block_rows(layout, number, n)), size):
            batch = next(batches)
            thread.do(block.add, batch.rows, batch.seeds, teacher(batch))
        thread.do(block.store)


def undone(writer: Writer, datasets: list[str], share: Shard) -> list[tuple[int, int]]:
    """(view, block) of every missing block of a share. Which blocks are in it does not depend on what is done."""
    done = np.logical_and.reduce([writer.done(name) for name in datasets])
    return [tuple(place) for place in np.argwhere(share.share(done.shape) & ~done).tolist()]


def block_rows(layout: Layout, block: int, rows: int) -> np.ndarray:
    """The numbers of the rows of a block."""
    return np.arange(block * layout.block_rows, min((block + 1) * layout.block_rows, rows))
