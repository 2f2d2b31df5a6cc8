"""Blocks on their way to the disk: while one is encoded and written, the next is computed.

loader (its workers ahead) -> teacher -> a few batches wait -> encode, checksum, pwrite, fsync, in a thread
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice

import numpy as np
from torch import Tensor

from kdcache.batches import Loader
from kdcache.cache import Writer
from kdcache.cache.layout import Layout
from kdcache.codecs import Codec
from kdcache.errors import CacheError, UsageError
from kdcache.teachers import Dumped, require_finite
from kdcache.types import Knowledge, quiet

WAITING = 3  # batches of answers
Places = list[tuple[int, int]]  # view and block of each


class WriterThread:
    """Runs actions one after the other in a thread of its own; `do` waits while WAITING of them are not yet done.

    After an error no further action is run, for each relies on those before it; it is raised by `do`, or at the end.
    """

    def __init__(self) -> None:
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
        if self.kind == "knowledge":
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


def fill(writer: Writer, teacher: Dumped, loader: Loader, held_out: Loader | None, progress=quiet) -> None:
    """Fills what is not done yet and no other rank is at, of the training images and of the evaluation images."""
    with WriterThread() as thread:
        for kind, images in (("knowledge", loader), ("eval", held_out)):
            if images is None:
                continue
            names = datasets(writer, kind)
            todo, blocks = undone(writer, names), writer.layout.blocks(names[0])[1]
            counted = {"unit": "images", "scale": max(1, round(len(images.source) / blocks))}
            steps = filled(writer, teacher, images, kind, todo, thread)
            for _ in progress(steps, total=len(todo), desc=f"dumping {kind}", **counted):
                pass
    if writer.marks.waiting:  # a rank that waits for others asks ten times a second
        writer.sync(always=True)


def filled(
    writer: Writer, teacher: Dumped, loader: Loader, kind: str, todo: Places, thread: WriterThread
) -> Iterator[int]:
    """Fills those of the blocks that no other rank takes. Gives the number of each: its own ones as it begins them.

    A block is always cut into the same batches, which decide the last bits of the answers.
    """
    size, n, passed = teacher.forward.batch, len(loader.source), 0
    taken: deque[tuple[int, int, Block]] = deque()

    def plan() -> Iterator[np.ndarray]:
        for number, (view, block) in enumerate(todo):
            if writer.take(datasets(writer, kind), view, block):
                rows = block_rows(writer.layout, block, n)
                batches = [view * n + rows[start : start + size] for start in range(0, len(rows), size)]
                taken.append((number, len(batches), Block(writer, kind, view, block)))
                yield from batches

    wanted = plan()
    if (first := next(wanted, None)) is not None:  # or workers would be started for nothing
        batches = loader.run(chain([first], wanted), pixels=teacher.sees)
        for batch in batches:
            number, count, block = taken.popleft()
            yield from range(passed, number + 1)
            passed = number + 1
            for one in chain([batch], islice(batches, count - 1)):
                thread.do(block.add, one.rows, one.seeds, teacher(one))
            thread.do(block.store)
    yield from range(passed, len(todo))


def datasets(writer: Writer, kind: str) -> list[str]:
    """What is written of each block: of evaluation images no seeds, for their renderings have none."""
    return ["seeds"] * (kind == "knowledge") + [f"{kind}/{name}" for name in writer.layout.codecs]


def undone(writer: Writer, names: list[str]) -> Places:
    """(view, block) of all that is to be in this file and is missing in one of these datasets."""
    done = np.logical_and.reduce([writer.done(name) for name in names])
    return [(view, block) for view, block in np.argwhere(writer.layout.share(names[0]) & ~done).tolist()]


def block_rows(layout: Layout, block: int, rows: int) -> np.ndarray:
    """The numbers of the rows of a block."""
    return np.arange(block * layout.block_rows, min((block + 1) * layout.block_rows, rows))
