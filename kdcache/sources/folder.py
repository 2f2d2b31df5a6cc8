"""A folder of image files, one folder per class."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.errors import DataChanged, SourceError
from kdcache.seeds import PROBE, below, keyed
from kdcache.sources.arrays import ArraySource, Source, blake, digest
from kdcache.sources.decode import PACKAGES, check_whole, decode, file_bytes, size_of
from kdcache.types import quiet

SUFFIXES = (".jpg", ".jpeg", ".png")
SPLITS = {"train": ("train",), "eval": ("test", "val")}
SMALL = 64  # images up to this side are decoded once and kept in memory,
SMALL_TOTAL = 1 << 30  # if all of them fit into this many bytes
NAMED = 10  # bad files in a message
PEEKS = 64  # images whose size is looked at when a folder is opened
PHOTO_MEAN, PHOTO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPAN = 64  # rows that a thread takes at a time: handing over each alone would cost as much as decoding it


class FolderSource(Source):
    """Files in the order of torchvision's ImageFolder, so that answers stored in that order fit; decoded when read."""

    packages = PACKAGES
    expected: np.ndarray | None = None  # digests that a cache knows; each row is checked when first read

    def __init__(self, root: Path, split: str, names: list[str], labels, classes: list[str], *, spec: str = ""):
        self.spec, self.root, self.split, self.names, self.classes = (
            spec or f"folder:{root}",
            root,
            split,
            names,
            classes,
        )
        self.labels = np.asarray(labels, dtype=np.int64)
        self.mean, self.std = PHOTO_MEAN, PHOTO_STD
        some = below(keyed(0, np.arange(PEEKS), use=PROBE)[0], len(names)).tolist()
        sizes = {size_of(self.path(row), file_bytes(self.path(row))) for row in (0, *some)}
        self.size = sizes.pop() if len(sizes) == 1 else None  # a view refuses the image that differs all the same
        self.default_view = f"resized-crop:{min(224, *self.size) if self.size else 224}"

    def path(self, row: int) -> str:
        return os.path.join(self.root, self.names[row])

    def read(self, rows):
        images = [torch.from_numpy(self._image(int(row))) for row in rows]
        same = len({image.shape for image in images}) == 1
        return torch.stack(images) if same else images

    def _image(self, row: int) -> np.ndarray:
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
        return require_whole(self.root, self.names, progress)

    def digests(self, rows):
        return np.array([digest(file_bytes(self.path(row))) for row in rows], dtype=np.uint64)

    def fingerprint(self):
        return blake(os.fsencode("\0".join(self.names)), self.labels, os.fsencode("\0".join(self.classes)))

    def take(self, rows, fraction=1.0):
        part = copy.copy(self)
        part.fraction = self.fraction * fraction
        part.names, part.labels = [self.names[row] for row in rows], self.labels[rows]
        if self.expected is not None:
            part.expect(self.expected[rows])
        return part


def image_folder(spec: str, argument: str, split: str) -> Source:
    """The split of a folder; images up to 64x64 of one size are held in memory."""
    root = Path(argument).expanduser()
    names, labels, classes = listing(root, split)
    try:
        source = FolderSource(root.absolute(), split, names, labels, classes, spec=spec)
        height, width = source.size or (SMALL + 1, SMALL + 1)
        small = max(height, width) <= SMALL and 3 * height * width * len(source) <= SMALL_TOTAL
        return in_memory(source, source.size) if small else source
    except SourceError:
        require_whole(root.absolute(), names)  # are there more of them?
        raise


def require_whole(root: Path, names: list[str], progress=quiet) -> np.ndarray:
    """Reads every image; its digests, u64 [N]. All bad ones are named at once."""
    bad: dict[int, SourceError] = {}

    def look(row: int) -> int:
        try:
            data = file_bytes(os.path.join(root, names[row]))
            check_whole(os.path.join(root, names[row]), data)
        except SourceError as error:
            bad[row] = error
            return 0
        return digest(data)

    looks = progress(in_threads(look, len(names)), total=len(names), desc="checking images")
    digests = np.fromiter(looks, np.uint64, len(names))
    if len(bad) == 1:
        raise bad.popitem()[1]
    if bad:
        shown = ", ".join(names[row] for row in sorted(bad)[:NAMED]) + (", ..." if len(bad) > NAMED else "")
        raise SourceError(
            root, "whole JPEG or PNG images", f"{len(bad)} that are not: {shown}", "replace or remove them"
        )
    return digests


def listing(root: Path, split: str) -> tuple[list[str], list[int], list[str]]:
    """Names relative to the root, labels, and classes; those of the training part also for the evaluation part."""
    place = f"folder:{root}"
    parts = {s: next((p for p in names if (root / p).is_dir()), None) for s, names in SPLITS.items()}
    if parts["train"] is None or parts[split] is None:
        missing = " or ".join(f"{name}/" for name in SPLITS["train" if parts["train"] is None else split])
        found = "no such folder" if not root.is_dir() else "none"
        raise SourceError(place, f"a folder {missing} with one folder per class", found, "see `kdcache list sources`")
    classes = folders_in(root / parts["train"])
    if len(classes) < 2:
        raise SourceError(root / parts["train"], "two or more class folders", str(len(classes)), "one folder a class")
    strange = sorted(set(folders_in(root / parts[split])) - set(classes))
    if strange:
        found = f"class {strange[0]!r}, unknown in train/"
        raise SourceError(root / parts[split], "the classes of train/", found, "rename or remove it")
    names, labels = [], []
    for label, name in enumerate(classes):
        files = [f"{parts[split]}/{name}/{file}" for file in images_below(root / parts[split] / name)]
        if split == "train" and not files:
            raise SourceError(root / parts[split] / name, "JPEG or PNG files", "none", "fill or remove the folder")
        names += files
        labels += [label] * len(files)
    if not names:
        raise SourceError(root / parts[split], "JPEG or PNG files", "none", "fill the class folders")
    return names, labels, classes


def folders_in(path: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def images_below(path: Path) -> Iterator[str]:
    """Image files in ImageFolder's order: folder by folder, by name in each. Hidden files and folders are left out."""
    top = os.fspath(path)
    for here, _, files in sorted(os.walk(top, followlinks=True)):
        below = here[len(top) + 1 :]
        if not (below.startswith(".") or "/." in below):
            prefix = f"{below}/" if below else ""
            yield from (prefix + f for f in sorted(files) if f.lower().endswith(SUFFIXES) and not f.startswith("."))


def in_memory(source: FolderSource, size: tuple[int, int]) -> Source:
    """The same images as an ArraySource; the folder itself where one has another size."""
    images = np.empty((len(source), 3, *size), dtype=np.uint8)
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
        source.size = None
        return source
    view = "crop-flip" if size == (32, 32) else f"resized-crop:{min(size)}"
    held = ArraySource(
        source.split, torch.from_numpy(images), source.labels, source.classes, view, digests, spec=source.spec
    )
    held.names = source.names
    return held


def in_threads(function, rows: int) -> Iterator:
    """function(0), function(1), … in order, spread over the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(cores) as pool:
        for start in range(0, rows, 64 * SPAN):  # map() would queue every row at once
            stop = min(start + 64 * SPAN, rows)
            spans = [range(s, min(s + SPAN, stop)) for s in range(start, stop, SPAN)]
            for part in pool.map(lambda span: [function(row) for row in span], spans):
                yield from part
