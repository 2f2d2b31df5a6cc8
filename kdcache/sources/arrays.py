"""The Source interface, and sources that live in memory as one uint8 tensor."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.errors import UsageError
from kdcache.seeds import PART, SYNTHETIC, keyed
from kdcache.sources.decode import PACKAGES
from kdcache.types import quiet

if TYPE_CHECKING:
    from torch import Tensor

DIGITS_TEST_SHARE = 360 / 1797
SYNTHETIC_TOTAL = 4 << 30
TOGETHER = 1024  # images whose digests are made at a time


class Source:
    """Labelled images in a fixed order; a row is a place in that order."""

    spec: str  # as a user names it
    split: str
    classes: list[str]  # by number; none where no image has a label
    labels: np.ndarray  # int64 [N], -1 where there is none
    mean: tuple[float, ...]
    std: tuple[float, ...]
    default_view: str
    default_student: str = "resnet20"
    size: tuple[int, int] | None  # of every image, of files as far as a look at some tells; None where they differ
    resident: Tensor | None = None  # all the images, where they fit in memory
    raw: bool = False  # whether reading is no more than copying pixels, so that no process is worth sending them from
    names: Sequence[str] | None = None  # of its files, relative to its folder
    fraction: float = 1.0
    packages: tuple[str, ...] = ()
    """What is installed that its pixels depend on, beside kdcache: what decodes files."""
    tolerance: int | None = None
    """Levels of 256 by which decoded files may differ from what a teacher saw; None: as far as rounding explains it."""
    scaled: bool = False
    """Whether its pixels are others than those of the images whose digests it has."""

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, rows: Sequence[int] | np.ndarray) -> Tensor | list[Tensor]:
        """The images of these rows: uint8 [n, 3, h, w], or a list of [3, h, w] where sizes differ."""
        raise NotImplementedError

    def check(self, progress=quiet) -> np.ndarray:
        """Reads every image once, so that a bad one is named before anything is written; its digests, u64 [N]."""
        raise NotImplementedError

    def digests(self, rows) -> np.ndarray:
        """A 64-bit hash of each image's encoded bytes, or of its pixels where there is no file."""
        raise NotImplementedError

    def hashes(self, progress=quiet) -> Iterator[int]:
        """The digest of each image, in order; where they lie in files, they are read in threads."""
        starts, counted = range(0, len(self), TOGETHER), {"unit": "images", "scale": min(TOGETHER, len(self))}
        for start in progress(starts, total=len(starts), desc="comparing images", **counted):
            yield from self.digests(np.arange(start, min(start + TOGETHER, len(self)))).tolist()

    def expect(self, digests: np.ndarray) -> None:
        """From now on, a row that does not have its digest when it is first read is an error."""

    def take(self, rows: np.ndarray, fraction: float = 1.0) -> Source:
        """The same source with these rows only, which are such a fraction of it."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """A hash over what can be known without reading every image."""
        raise NotImplementedError

    def name_classes(self, names: Sequence[str]) -> None:
        """Names those of images that have none of their own, as their teacher or their cache has them."""
        self.classes = self.classes or list(names)

    def identity(self) -> dict:
        return {
            "spec": self.spec,
            "split": self.split,
            "rows": len(self),
            "classes": self.classes,
            "fraction": self.fraction,
            "fingerprint": self.fingerprint(),
        }

    def part(self, fraction: float) -> Source:
        """A stratified part; 0.25 lies inside 0.5."""
        rows = stratified(self.labels, fraction)
        if not len(rows):
            raise UsageError("`fraction`", "at least one row", f"{fraction} of {len(self)} rows", "take more")
        return self.take(rows, fraction)


class ArraySource(Source):
    """Images held in memory."""

    def __init__(
        self, split: str, images: Tensor, labels, classes: list[str], default_view: str, digests=None,
        *, spec: str = "memory", default_student: str = Source.default_student,
    ):  # fmt: skip
        self.spec, self.split, self.resident, self.classes = spec, split, images, classes
        self.default_view, self.default_student = default_view, default_student
        self.labels = np.asarray(labels, dtype=np.int64)
        self.size = (images.shape[2], images.shape[3])
        self._digests = digests  # of the files, where the pixels came from files
        self.packages = () if digests is None else PACKAGES
        self.mean, self.std = channel_statistics(images)

    def read(self, rows):
        return self.resident.index_select(0, torch.as_tensor(rows, dtype=torch.int64))  # 20 times faster than [rows]

    def check(self, progress=quiet):
        return self.digests(range(len(self)))

    def digests(self, rows):
        if self._digests is not None:
            return self._digests[np.asarray(rows)]
        images = self.resident.numpy()
        return np.array([digest(images[row].tobytes()) for row in rows], dtype=np.uint64)

    def fingerprint(self):
        content = self.resident.numpy() if self._digests is None else self._digests  # decoders may differ by a level
        return blake(content, self.labels, os.fsencode("\0".join(self.classes)))

    def take(self, rows, fraction=1.0):
        part = copy.copy(self)
        part.fraction = self.fraction * fraction
        part.resident, part.labels = self.read(rows), self.labels[rows]
        part.names = None if self.names is None else [self.names[row] for row in rows]
        part._digests = None if self._digests is None else self._digests[rows]
        return part


def digits(spec: str, argument: str, split: str) -> Source:
    """Handwritten digits that lie beside this file, shown as 32x32 RGB; digits.txt says whose they are."""
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        images, labels = file["images"], file["labels"]
    gray = (images.astype(np.int64) * 255 // 16).astype(np.uint8)
    images = np.repeat(gray.repeat(4, 1).repeat(4, 2)[:, None], 3, 1)
    held_out = np.zeros(len(labels), dtype=bool)
    held_out[stratified(labels, DIGITS_TEST_SHARE)] = True
    rows = np.flatnonzero(held_out if split == "eval" else ~held_out)
    images, classes = torch.from_numpy(images[rows]), [str(d) for d in range(10)]
    return ArraySource(split, images, labels[rows], classes, "crop", spec=spec, default_student="tiny")


def synthetic(spec: str, argument: str, split: str) -> Source:
    """Every class has a pattern of its own; an image is that pattern under noise. One evaluation row for 5 others."""
    try:
        rows, classes, size = (int(n) for n in argument.split(","))
        if min(rows, size) < 1 or classes < 2 or 3 * size * size * max(rows, classes) > SYNTHETIC_TOTAL:
            raise ValueError
    except ValueError:
        expected = f"synthetic:ROWS,CLASSES,SIZE, two or more classes, at most {SYNTHETIC_TOTAL >> 30} GiB of pixels"
        raise UsageError("`data`", expected, repr(spec), "try synthetic:1000,10,32") from None
    key, values = (1, rows) if split == "train" else (2, max(rows // 5, classes))
    labels = np.arange(values, dtype=np.int64) % classes
    cells = 3 * size * size
    patterns = _noise(0, classes, cells).reshape(classes, 3, size, size)
    noise = _noise(key, values, cells).reshape(values, 3, size, size)
    images = (patterns[labels].astype(np.uint16) + 3 * noise.astype(np.uint16)) // 4
    names = [f"class{c}" for c in range(classes)]
    return ArraySource(split, torch.from_numpy(images.astype(np.uint8)), labels, names, "crop-flip", spec=spec)


def _noise(key: int, rows: int, cells: int) -> np.ndarray:
    words = keyed(key, np.arange(-(-rows * cells // 16), dtype=np.int64), use=SYNTHETIC)
    return np.stack(words, 1).astype("<u4").view(np.uint8).ravel()[: rows * cells]


def stratified(labels: np.ndarray, share: float) -> np.ndarray:
    """Rows, in order: this share of every class, give or take a row, picked in a keyed order that never changes.

    Every row has a place between 0 and 1 in its class, and the lowest places are taken: a smaller part lies in a
    larger one, which quotas that are rounded for each part would not see to.
    """
    labels = np.asarray(labels)
    a, b, _, _ = keyed(0, np.arange(len(labels), dtype=np.int64), use=PART)
    order = np.lexsort((b, a, labels))
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(starts, counts)
    place = (2 * rank + 1) / np.repeat(counts, counts)
    return np.sort(order[np.lexsort((a[order], place))][: round(len(labels) * share)])


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in 0..1, exactly: from counts of the 256 values."""
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(images.shape[1]):
        share = torch.bincount(images[:, channel].reshape(-1), minlength=256).double()
        share /= share.sum()
        mean.append(round(float((share * values).sum()), 6))
        std.append(round(float((share * (values - mean[-1]) ** 2).sum().sqrt()), 6) or 1.0)
    return tuple(mean), tuple(std)


def digest(data: bytes | memoryview) -> int:
    """The 64-bit hash by which a cache knows an image: of its encoded bytes, or of its pixels, uint8 [3, h, w].

    >>> digest(b"the bytes of a file")
    12461993954618194240
    """
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def blake(*parts) -> str:
    """A hash of arrays and bytes, each with its length, so that nothing slides from one part into the next."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = memoryview(part) if isinstance(part, bytes) else np.ascontiguousarray(part).data.cast("B")
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()
