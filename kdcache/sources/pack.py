"""Images that were decoded once, by `kdcache pack`: `pack:pixels.kdp`. To caches they are the images themselves."""

from __future__ import annotations

import copy
import mmap
import os
from pathlib import Path

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.errors import DataChanged, SourceError
from kdcache.sources.arrays import Source, blake
from kdcache.sources.encoded import SMALL, SMALL_TOTAL
from kdcache.sources.pack_file import REMEDY, PackFile, Split, mapped, read_finished, word_of
from kdcache.types import quiet


class Pixels:
    """The pixels of one split, read-only in this process's memory; each row is checked when it is first touched.

    What was checked is known to all workers that are forked from the process that opened the pack.
    """

    def __init__(self, file: PackFile, split: Split):
        self.file, self.split = file, split
        self.sizes, self.starts = split.tables["sizes"].astype(np.int64), split.starts()
        same = split.rows and (self.sizes == self.sizes[0]).all()
        self.size = tuple(self.sizes[0].tolist()) if same else None
        self._open()

    def _open(self) -> None:
        self.seen = np.frombuffer(mmap.mmap(-1, max(1, self.split.rows)), bool)
        self.map: mmap.mmap | None = None

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name not in ("seen", "map")}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open()

    def taken(self, rows: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """Copies of the images of these rows: uint8 [n, 3, h, w], or a list where sizes differ."""
        self.check(rows)
        if self.size:
            first, _ = self.split.places["pixels"]
            every = np.frombuffer(self.memory(), np.uint8, self.split.facts["pixels"], first)
            return every.reshape(-1, 3, *self.size).take(rows, 0)
        images = [self.row(row).reshape(3, *self.sizes[row]).copy() for row in rows.tolist()]
        return np.stack(images) if len({image.shape for image in images}) == 1 else images

    def memory(self) -> mmap.mmap:
        if self.map is None:
            self.map = mapped(self.file)
        return self.map

    def row(self, row: int) -> np.ndarray:
        start, end = self.starts[row : row + 2].tolist()
        return np.frombuffer(self.memory(), np.uint8, end - start, start)

    def check(self, rows: np.ndarray) -> None:
        """Refuses damaged rows, each when it is first touched."""
        for row in rows[~self.seen[rows]].tolist():
            if not self.is_right(row):
                where, remedy = f"{self.file.path}, {self.split.name} row {row}", f"`kdcache verify` counts; {REMEDY}"
                raise SourceError(where, "intact pixels", "a wrong CRC", remedy)
            self.seen[row] = True

    def is_right(self, row: int) -> bool:
        pixels = self.row(row)
        place = self.split.places["words"][0] + 8 * row
        return int.from_bytes(self.memory()[place : place + 8], "little") == word_of(self.split.name, row, pixels)


class PackSource(Source):
    """One split of a pack, with the digests, names and identity of the images that were packed."""

    raw = True
    expected: np.ndarray | None = None

    def __init__(self, pixels: Pixels, spec: str):
        file, split = pixels.file, pixels.split
        self.pixels, self.spec, self.split, self.classes = pixels, spec, split.name, file.header["classes"]
        self.rows = np.arange(split.rows)  # of the pack
        self.labels, self.names = split.tables["labels"].astype(np.int64), split.names()
        self._digests, facts = split.tables["digests"], split.facts
        self.mean, self.std = tuple(facts["mean"]), tuple(facts["std"])
        self.default_view, self.default_student, self.size = facts["view"], facts["student"], pixels.size
        self.packages = tuple(file.header["libraries"]) if facts["files"] else ()
        self.scaled = file.header["short"] is not None
        if pixels.size and max(pixels.size) <= SMALL and facts["pixels"] <= SMALL_TOTAL:
            self.resident = torch.from_numpy(pixels.taken(self.rows))

    def read(self, rows):
        rows = np.asarray(rows, dtype=np.int64)
        self.require_expected(rows)
        if self.resident is not None:
            return self.resident.index_select(0, torch.from_numpy(rows))
        found = self.pixels.taken(self.rows[rows])
        return torch.from_numpy(found) if isinstance(found, np.ndarray) else [torch.from_numpy(one) for one in found]

    def require_expected(self, rows: np.ndarray) -> None:
        if self.expected is None:
            return
        wrong = np.flatnonzero(self._digests[rows] != self.expected[rows])
        if len(wrong):
            row = int(rows[wrong[0]])
            found = f"another file than the teacher saw as row {row}"
            raise DataChanged(f"{self.spec}, row {row}", "an unchanged image", found, "restore it or dump again")

    def expect(self, digests):
        self.expected = digests

    def check(self, progress=quiet):
        for row in progress(self.rows.tolist(), total=len(self), desc="checking pixels"):
            self.pixels.check(np.array([row]))
        return self._digests

    def digests(self, rows):
        """Those of the images that were packed, of rows whose pixels are intact."""
        rows = np.asarray(rows, dtype=np.int64)
        self.pixels.check(self.rows[rows])
        return self._digests[rows]

    def fingerprint(self):
        """That of the images that were packed; of scaled ones, it is another."""
        facts, header = self.pixels.split.facts, self.pixels.file.header
        found = facts["fingerprint"]
        if len(self) < self.pixels.split.rows or self.classes != header["classes"]:  # a part, or classes named since
            kind = facts["identified_by"]
            found = identified(self, kind) if kind in IDENTITIES else blake(found.encode(), self.rows)
        return found if header["short"] is None else blake(found.encode(), str(header["short"]).encode())

    def take(self, rows, fraction=1.0):
        part = copy.copy(self)
        part.fraction = self.fraction * fraction
        part.rows, part.labels, part._digests = self.rows[rows], self.labels[rows], self._digests[rows]
        part.names = None if self.names is None else [self.names[row] for row in rows]
        if self.resident is not None:
            part.resident = self.resident.index_select(0, torch.as_tensor(rows))
        if self.expected is not None:
            part.expected = self.expected[rows]
        return part


IDENTITIES = {
    "names": lambda source: os.fsencode("\0".join(source.names)),
    "digests": lambda source: source._digests,
    "pixels": lambda source: source.read(np.arange(len(source))).numpy(),
}
"""What fingerprints are hashes of, beside labels and classes: so that a part of a pack has that of the images' part."""


def identified(source: Source, kind: str) -> str:
    return blake(IDENTITIES[kind](source), source.labels, os.fsencode("\0".join(source.classes)))


def identified_by(source: Source) -> str:
    """What the fingerprint of a source is a hash of; empty where it is none of these."""
    possible = {"names": source.names, "digests": getattr(source, "_digests", None), "pixels": source.resident}
    held = [kind for kind, value in possible.items() if value is not None]
    return next((kind for kind in held if identified(source, kind) == source.fingerprint()), "")


def packed(spec: str, argument: str, split: str) -> Source:
    """One split of a pack."""
    file = read_finished(Path(os.path.expanduser(argument)).absolute())
    return PackSource(Pixels(file, file.splits[split]), spec)
