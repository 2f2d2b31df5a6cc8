"""Encoded images, one a row, wherever they lie: decoded when they are read, held in memory where they are small."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.errors import DataChanged, SourceError
from kdcache.seeds import PROBE, below, keyed
from kdcache.sources.arrays import ArraySource, Source, blake, digest
from kdcache.sources.decode import FORMATS, PACKAGES, check_whole, decode, size_of
from kdcache.threads import in_threads
from kdcache.types import quiet

SMALL = 64  # images up to this side are decoded once and kept in memory,
SMALL_TOTAL = 1 << 30  # if all of them fit into this many bytes
NAMED = 10  # bad images in a message
PEEKS = 64  # images whose size is looked at when a source is opened
PHOTO_MEAN, PHOTO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class EncodedSource(Source):
    """Images in the bytes of their files. A leaf says in `place` and `encoded` where those of a row are.

    Rows of `where`, if a leaf has it, go with the rows of names and labels. `settled` finishes what is opened, and
    `held` keeps it in memory where that is worth it.
    """

    packages = PACKAGES
    mean, std = PHOTO_MEAN, PHOTO_STD
    size: tuple[int, int] | None = None
    names: Sequence[str]
    where: np.ndarray | None = None
    expected: np.ndarray | None = None  # digests that a cache knows; each row is checked when first read

    def __init__(self, spec: str, split: str, names: Sequence[str], labels, classes: list[str], where=None):
        self.spec, self.split, self.names, self.classes, self.where = spec, split, names, classes, where
        self.labels = np.asarray(labels, dtype=np.int64)

    def place(self, row: int) -> str:
        """What an error calls the image of a row."""
        raise NotImplementedError

    def encoded(self, row: int) -> bytes:
        """Its bytes; a SourceError where they cannot be read, or are more than KDCACHE_MAX_IMAGE_BYTES."""
        raise NotImplementedError

    def read(self, rows):
        images = [torch.from_numpy(self._image(int(row))) for row in rows]
        same = len({image.shape for image in images}) == 1
        return torch.stack(images) if same else images

    def _image(self, row: int) -> np.ndarray:
        data = self.encoded(row)
        if self.expected is not None and not self.seen[row]:
            if digest(data) != self.expected[row]:
                found = f"another file than the teacher saw as row {row}"
                raise DataChanged(self.place(row), "an unchanged image", found, "restore it or dump again")
            self.seen[row] = True
        return decode(self.place(row), data)

    def expect(self, digests):
        self.expected, self.seen = digests, np.zeros(len(self), dtype=bool)

    def check(self, progress=quiet):
        return require_whole(self, progress)

    def digests(self, rows):
        return np.array([digest(self.encoded(int(row))) for row in rows], dtype=np.uint64)

    def hashes(self, progress=quiet):
        found = in_threads(lambda row: digest(self.encoded(row)), range(len(self)))
        return progress(found, total=len(self), desc="comparing images", unit="images")

    def fingerprint(self):
        return blake(os.fsencode("\0".join(self.names)), self.labels, os.fsencode("\0".join(self.classes)))

    def take(self, rows, fraction=1.0):
        part = copy.copy(self)
        part.fraction = self.fraction * fraction
        part.names, part.labels = [self.names[row] for row in rows], self.labels[rows]
        part.where = None if self.where is None else self.where[rows]
        if self.expected is not None:
            part.expect(self.expected[rows])
        return part


def settled(source: EncodedSource) -> EncodedSource:
    """The source, ready to be used: with the size of its images.

    A view refuses an image that differs in size from those that were looked at.
    """
    some = below(keyed(0, np.arange(PEEKS), use=PROBE)[0], len(source)).tolist()
    try:
        sizes = {size_of(source.place(row), source.encoded(row)) for row in (0, *some)}
        source.size = sizes.pop() if len(sizes) == 1 else None
        source.default_view = f"resized-crop:{min(224, *source.size) if source.size else 224}"
        return source
    except SourceError:
        require_whole(source)  # are there more of them?
        raise


def held(source: Source, progress=quiet) -> Source:
    """The source with its images in memory where they are in files, up to 64x64 and of one size."""
    if not isinstance(source, EncodedSource) or source.size is None:
        return source
    height, width = source.size
    if max(height, width) > SMALL or 3 * height * width * len(source) > SMALL_TOTAL:
        return source
    try:
        return in_memory(source, source.size, progress)
    except SourceError:
        require_whole(source, progress)  # are there more of them?
        raise


def require_whole(source: EncodedSource, progress=quiet) -> np.ndarray:
    """Reads every image; its digests, u64 [N]. All bad ones are named at once."""
    bad: dict[int, SourceError] = {}

    def look(row: int) -> int:
        try:
            data = source.encoded(row)
            check_whole(source.place(row), data)
        except SourceError as error:
            bad[row] = error
            return 0
        return digest(data)

    looks = in_threads(look, range(len(source)))
    looks = progress(looks, total=len(source), desc="checking images", unit="images")
    digests = np.fromiter(looks, np.uint64, len(source))
    if len(bad) == 1:
        raise bad.popitem()[1]
    if bad:
        shown = ", ".join(source.names[row] for row in sorted(bad)[:NAMED]) + (", ..." if len(bad) > NAMED else "")
        found = f"{len(bad)} that are not: {shown}"
        raise SourceError(source.spec, f"whole {FORMATS} images", found, "replace or remove them")
    return digests


def in_memory(source: EncodedSource, size: tuple[int, int], progress=quiet) -> Source:
    """The same images as an ArraySource; the source itself where one has another size."""
    images = np.empty((len(source), 3, *size), dtype=np.uint8)
    digests = np.empty(len(source), dtype=np.uint64)

    def load(row: int) -> bool:
        data = source.encoded(row)
        digests[row] = digest(data)
        image = decode(source.place(row), data)
        if image.shape[1:] != size:
            return False
        images[row] = image
        return True

    loads = in_threads(load, range(len(source)))
    if not all(progress(loads, total=len(source), desc=f"reading {source.split} images", unit="images")):
        source.size = None
        return source
    view = "crop-flip" if size == (32, 32) else f"resized-crop:{min(size)}"
    held = ArraySource(
        source.split, torch.from_numpy(images), source.labels, source.classes, view, digests, spec=source.spec
    )
    held.names = source.names
    return held
