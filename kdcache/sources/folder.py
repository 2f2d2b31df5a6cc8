"""A folder of image files, one folder per class."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import DataChanged, SourceError
from kdcache.sources.arrays import ArraySource, Source, blake, digest, quiet

SUFFIXES = {".jpg", ".jpeg", ".png"}
SPLITS = {"train": ("train",), "eval": ("test", "val")}
SMALL = 64  # images up to this side are decoded once and kept in memory,
SMALL_TOTAL = 1 << 30  # if all of them fit into this many bytes
PHOTO_MEAN, PHOTO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FolderSource(Source):
    """Files in the order of class name, then file name; decoded when read."""

    size = None
    expected: np.ndarray | None = None  # digests that a cache knows; each row is checked when first read

    def __init__(self, root: Path, split: str, names: list[str], labels, classes: list[str]):
        self.root, self.split, self.names, self.classes = root, split, names, classes
        self.labels = np.asarray(labels, dtype=np.int64)
        self.mean, self.std = PHOTO_MEAN, PHOTO_STD
        self.default_view = "resized-crop:224"

    def path(self, row: int) -> Path:
        return self.root / self.names[row]

    def read(self, rows):
        images = [self._image(int(row)) for row in rows]
        same = len({image.shape for image in images}) == 1
        return torch.stack(images) if same else images

    def _image(self, row: int) -> Tensor:
        data = file_bytes(self.path(row))
        if self.expected is not None and not self.seen[row]:
            if digest(data) != self.expected[row]:
                found = f"another file than the teacher saw as row {row}"
                raise DataChanged(self.path(row), "an unchanged image", found, "restore it or dump again")
            self.seen[row] = True
        return decode(self.path(row), data)

    def expect(self, digests):
        self.expected, self.seen = digests, np.zeros(len(self), dtype=bool)

    def check(self, progress=quiet):
        def look(row: int) -> int:
            data = file_bytes(self.path(row))
            decode(self.path(row), data, eighth=True)
            return digest(data)

        return np.fromiter(
            progress(in_threads(look, len(self)), total=len(self), desc="checking images"), np.uint64, len(self)
        )

    def digests(self, rows):
        return np.array([digest(file_bytes(self.path(row))) for row in rows], dtype=np.uint64)

    def fingerprint(self):
        return blake("\0".join(self.names).encode(), self.labels, "\0".join(self.classes).encode())

    def take(self, rows):
        part = copy.copy(self)
        part.names, part.labels = [self.names[row] for row in rows], self.labels[rows]
        return part


def folder(argument: str, split: str) -> Source:
    """The split of a folder; images up to 64x64 of one size are held in memory."""
    root = Path(argument).expanduser()
    names, labels, classes = listing(root, split)
    source = FolderSource(root.absolute(), split, names, labels, classes)
    first = source.read([0])[0]
    height, width = first.shape[1:]
    if max(height, width) <= SMALL and first.numel() * len(source) <= SMALL_TOTAL:
        return in_memory(source, (height, width))
    return source


def listing(root: Path, split: str) -> tuple[list[str], list[int], list[str]]:
    """Names relative to the root, labels, and classes; those of the training part also for the evaluation part."""
    place = f"folder:{root}"
    parts = {s: next((p for p in names if (root / p).is_dir()), None) for s, names in SPLITS.items()}
    if parts["train"] is None or parts[split] is None:
        missing = " or ".join(f"{name}/" for name in SPLITS["train" if parts["train"] is None else split])
        found = "no such folder" if not root.is_dir() else "none"
        raise SourceError(place, f"a folder {missing} with one folder per class", found, "see `kdcache list sources`")
    classes = sorted(entry.name for entry in os.scandir(root / parts["train"]) if entry.is_dir())
    if len(classes) < 2:
        raise SourceError(root / parts["train"], "two or more class folders", str(len(classes)), "one folder a class")
    strange = sorted(e.name for e in os.scandir(root / parts[split]) if e.is_dir() and e.name not in classes)
    if strange:
        found = f"class {strange[0]!r}, unknown in train/"
        raise SourceError(root / parts[split], "the classes of train/", found, "rename or remove it")
    names, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(images_below(root / parts[split] / name))
        if split == "train" and not files:
            raise SourceError(root / parts[split] / name, "JPEG or PNG files", "none", "fill or remove the folder")
        names += [str(Path(parts[split]) / name / file) for file in files]
        labels += [label] * len(files)
    if not names:
        raise SourceError(root / parts[split], "JPEG or PNG files", "none", "fill the class folders")
    return names, labels, classes


def images_below(path: Path) -> Iterator[str]:
    if path.is_dir():
        for here, _, files in os.walk(path):
            yield from (os.path.relpath(os.path.join(here, f), path) for f in files if Path(f).suffix.lower() in SUFFIXES)


def in_memory(source: FolderSource, size: tuple[int, int]) -> Source:
    """The same images as an ArraySource; the folder itself where one has another size."""
    images = torch.empty(len(source), 3, *size, dtype=torch.uint8)
    digests = np.empty(len(source), dtype=np.uint64)

    def load(row: int) -> bool:
        data = file_bytes(source.path(row))
        digests[row] = digest(data)
        image = decode(source.path(row), data)
        if image.shape[1:] != size:
            return False
        images[row] = image
        return True

    if not all(in_threads(load, len(source))):
        return source
    view = "crop-flip" if size == (32, 32) else f"resized-crop:{min(size)}"
    return ArraySource(source.split, images, source.labels, source.classes, view, digests)


def in_threads(function, rows: int) -> Iterator:
    """function(0), function(1), … in order, with decoding spread over the cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, rows, 4096):  # map() would queue every row at once
            yield from pool.map(function, range(start, min(start + 4096, rows)))


def file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(path, "a readable image", error.strerror or str(error), "mend or remove it") from None


def decode(path: Path, data: bytes, eighth: bool = False) -> Tensor:
    """RGB uint8 [3, h, w]; `eighth` lets JPEG decode at 1/8, which still reads the whole file."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if eighth:
                image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        found = "no image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise SourceError(path, "a whole JPEG or PNG image", found, "mend or remove it") from None
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

