"""A data set of the user's as a source: whatever has a length and items, in which an image and perhaps a label are."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.checks import quoted, short
from kdcache.errors import DataChanged, SourceError, UsageError
from kdcache.sources.arrays import Source, digest
from kdcache.sources.decode import PACKAGES, decode, file_bytes
from kdcache.sources.encoded import PHOTO_MEAN, PHOTO_STD
from kdcache.sources.hugging_face import LABELS
from kdcache.sources.shards import IMAGES

EXPECTED = "an image: bytes, a path, uint8 pixels or a PIL image; alone, with a label, or in a dict"


class Item(NamedTuple):
    """An image, encoded or as pixels [3, h, w], and its label, -1 where there is none."""

    image: bytes | np.ndarray
    label: int


class AdoptedSource(Source):
    """Rows are the items of a data set, in its order; every image is known by its bytes, else by its pixels."""

    packages = PACKAGES
    mean, std = PHOTO_MEAN, PHOTO_STD
    size: tuple[int, int] | None = None
    expected: np.ndarray | None = None

    def __init__(self, images, spec: str, split: str = "train"):
        self.images, self.spec, self.split, self.classes = readable(images), spec, split, []
        self.where = np.arange(len(images))
        self.labels = np.full(len(images), -1, dtype=np.int64)

    def item(self, row: int) -> Item:
        place = f"{self.spec}, item {self.where[row]}"
        try:
            found = self.images[int(self.where[row])]
        except Exception as error:  # it is anybody's code
            raise SourceError(place, "an image", short(error, 200), "correct the data set") from error
        return taken_apart(place, found)

    def read(self, rows):
        images = [torch.from_numpy(self.shown(int(row))) for row in rows]
        return torch.stack(images) if len({image.shape for image in images}) == 1 else images

    def shown(self, row: int) -> np.ndarray:
        image = self.item(row).image
        if self.expected is not None and digest_of(image) != self.expected[row]:
            place, found = f"{self.spec}, item {self.where[row]}", "another one than when it was opened"
            raise DataChanged(place, "the same image each time", found, "leave out what replaces or changes images")
        return decode(f"{self.spec}, item {self.where[row]}", image) if isinstance(image, bytes) else image

    def expect(self, digests):
        self.expected = digests

    def digests(self, rows):
        return np.array([digest_of(self.item(int(row)).image) for row in rows], dtype=np.uint64)

    def met(self, rows) -> np.ndarray:
        """Their digests; the labels that stand beside the images are known from now on."""
        items = (self.item(int(row)) for row in rows)
        found = [(digest_of(image), label) for image, label in items]
        self.labels[rows] = [label for _, label in found]
        return np.array([digest for digest, _ in found], dtype=np.uint64)

    def fingerprint(self):
        return ""

    def take(self, rows, fraction=1.0):
        part = copy.copy(self)
        part.fraction = self.fraction * fraction
        part.where, part.labels = self.where[rows], self.labels[rows]
        part.expected = None if self.expected is None else self.expected[rows]
        return part


def digest_of(image: bytes | np.ndarray) -> int:
    return digest(image if isinstance(image, bytes) else image.tobytes())


def readable(images):
    """The data set, so that it gives images as they are stored where it can, and no other image for one that is bad."""
    if hasattr(images, "transforms") and hasattr(images, "transform"):  # torchvision's
        images = copy.copy(images)
        images.transform = images.transforms = None
        if hasattr(images, "loader"):
            images.loader = file_bytes
    elif hasattr(images, "reader"):  # timm's, which would go on to the next index
        images = images.reader
    elif hasattr(images, "cast_column"):  # those of Hugging Face
        images = images.with_format(None)
        for name, kind in (getattr(images, "features", None) or {}).items():
            if type(kind).__name__ == "Image":
                images = images.cast_column(name, type(kind)(decode=False))
    return images


def taken_apart(place: str, item) -> Item:
    """What stands in an item of a data set."""
    label = -1
    if isinstance(item, Mapping) and not {*item} <= {"bytes", "path"}:
        label = next((item[name] for name in LABELS if name in item), -1)
        others = [value for name, value in item.items() if name not in LABELS and not name.startswith("__")]
        if "__key__" in item:  # of WebDataset, whose labels and captions are bytes, too
            others = [item[name] for name in item if name.rpartition(".")[2].lower() in IMAGES] or others
        images = [image for value in others if (image := image_in(value)) is not None]
        if len(images) != 1:
            found = f"{len(images)} in {quoted([*item])}"
            raise UsageError(place, "one image", found, "give pairs of an image and a label")
        return Item(images[0], number(place, label))
    if isinstance(item, tuple | list) and len(item) == 2:
        item, label = item
    image = image_in(item)
    if image is None:
        raise UsageError(place, EXPECTED, type(item).__name__, "give one of these")
    return Item(image, number(place, label))


def image_in(held) -> bytes | np.ndarray | None:
    """Encoded bytes, or pixels [3, h, w]; None where it is no image."""
    if isinstance(held, Mapping):  # an image of Hugging Face that is left encoded
        held = held.get("bytes") or held.get("path")
    if held is None:
        return None
    if hasattr(held, "read"):  # a file that was opened for this item
        with held:
            held = held.read()
    if isinstance(held, str | Path) and os.path.exists(held):
        return file_bytes(os.fspath(held))
    if isinstance(held, bytes | bytearray):
        return bytes(held)
    if hasattr(held, "convert"):  # Pillow's
        held = np.asarray(held.convert("RGB"))
    pixels = np.asarray(held) if hasattr(held, "shape") else None
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 3:
        return None
    if pixels.shape[0] != 3 and pixels.shape[2] == 3:
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels) if pixels.shape[0] == 3 else None


def number(place: str, label) -> int:
    """A label as a whole number, -1 for none."""
    given = -1 if label is None else label.item() if hasattr(label, "item") else label
    if isinstance(given, bytes) and given.strip().lstrip(b"-").isdigit():  # as archives have them
        given = int(given)
    if not isinstance(given, int) or given < -1:
        raise UsageError(place, "a label as a whole number, or none", quoted(given), "give numbers of classes")
    return int(given)


def has_rows(images) -> bool:
    """Whether it has a length and items; else one can only go through it."""
    return hasattr(images, "__getitem__") and hasattr(images, "__len__")
