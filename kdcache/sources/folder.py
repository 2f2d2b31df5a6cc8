"""A folder of image files, one folder per class; or without classes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kdcache.errors import SourceError
from kdcache.sources.arrays import Source
from kdcache.sources.decode import file_bytes
from kdcache.sources.encoded import EncodedSource, settled
from kdcache.sources.listed import SPLITS, rows_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
ALONE = ("train", "test", "val")  # that are parts even where the other part is missing; other names may be classes
WANTED = {"train": "train/", "eval": "test/ or val/"}


class FolderSource(EncodedSource):
    """Files in the order of torchvision's ImageFolder, so that answers stored in that order fit."""

    def __init__(self, root: Path, split: str, names: list[str], labels, classes: list[str], *, spec: str = ""):
        super().__init__(spec or f"folder:{root}", split, names, labels, classes)
        self.root = root

    def place(self, row):
        return os.path.join(self.root, self.names[row])

    def encoded(self, row):
        return file_bytes(self.place(row))


def image_folder(spec: str, argument: str, split: str) -> Source:
    """The split of a folder."""
    root = Path(os.path.expanduser(argument))
    return settled(FolderSource(root.absolute(), split, *listing(root, split), spec=spec))


def listing(root: Path, split: str) -> tuple[list[str], list[int], list[str]]:
    """Names relative to the root, labels, and classes; those of the training part also for the evaluation part."""
    parts = parts_of(root)
    if not any(parts.values()) and next(images_below(root), None):
        return without_splits(root, split)
    for wanted in ("train", split):
        if not parts[wanted]:
            found = "none" if root.is_dir() else "no such folder"
            expected = f"a folder {WANTED[wanted]} with one folder per class"
            raise SourceError(f"folder:{root}", expected, found, "see `kdcache list sources`")
    train = parts["train"][0]
    classes = folders_in(root / train)
    own = next((part for part in parts[split] if len(classes) < 2 or folders_in(root / part)), parts[split][0])
    if len(classes) < 2 and loose_in(root / train):
        names = [f"{own}/{file}" for file in images_below(root / own)]
        return filled(root / own, names), [-1] * len(names), []
    if len(classes) < 2:
        raise SourceError(root / train, "two or more class folders", str(len(classes)), "one folder a class")
    strange = sorted(set(folders_in(root / own)) - set(classes))
    if strange:
        found = f"class {strange[0]!r}, unknown in {train}/"
        raise SourceError(root / own, f"the classes of {train}/", found, "rename or remove it")
    return *in_classes(root, f"{own}/", classes, split == "train"), classes


def parts_of(root: Path) -> dict[str, list[str]]:
    """The folders of each split, in any case; the first that has classes is taken."""
    there = {name.lower(): name for name in folders_in(root)} if root.is_dir() else {}
    parts = {split: [there[name] for name in names if name in there] for split, names in SPLITS.items()}
    if all(parts.values()):
        return parts
    known = [name for name in there.values() if name in ALONE or (len(there) == 1 and name.lower() in ALONE)]
    return {split: [name for name in names if name in known] for split, names in parts.items()}


def without_splits(root: Path, split: str) -> tuple[list[str], list[int], list[str]]:
    """The same of a folder whose class folders, or whose images without classes, lie in no train/ and test/."""
    classes = folders_in(root)
    loose = loose_in(root)
    if loose and len(classes) > 1:
        found = f"{len(classes)} folders and images such as {loose}"
        raise SourceError(root, "class folders, or images without classes", found, "move one of them elsewhere")
    if len(classes) > 1:
        names, labels = in_classes(root, "", classes, True)
    else:
        names, classes = list(images_below(root)), []
        labels = [-1] * len(names)
    rows = rows_of(f"folder:{root}", split, names, np.asarray(labels), None)
    return [names[row] for row in rows], [labels[row] for row in rows], classes


def in_classes(root: Path, prefix: str, classes: list[str], every: bool) -> tuple[list[str], list[int]]:
    """Names and labels of the images in class folders, each of which has some where `every` is asked for."""
    names, labels = [], []
    for label, name in enumerate(classes):
        files = [f"{prefix}{name}/{file}" for file in images_below(root / prefix / name)]
        if every and not files:
            raise SourceError(root / prefix / name, "JPEG, PNG or WebP files", "none", "fill or remove the folder")
        names += files
        labels += [label] * len(files)
    return filled(root / prefix, names), labels


def loose_in(path: Path) -> str | None:
    """An image that lies in no folder below it."""
    return next((name for name in images_below(path) if "/" not in name), None)


def filled(place: Path, names: list[str]) -> list[str]:
    if not names:
        raise SourceError(place, "JPEG, PNG or WebP files", "none", "fill the class folders")
    return names


def folders_in(path: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def images_below(path: Path) -> Iterator[str]:
    """Image files in ImageFolder's order: folder by folder, by name in each. Hidden files and folders are left out."""
    top = os.fspath(path)
    for here, files in sorted(folders_below(top)):
        below = here[len(top) + 1 :]
        prefix = f"{below}/" if below else ""
        yield from (prefix + f for f in sorted(files) if f.lower().endswith(SUFFIXES) and not f.startswith("."))


def unreadable(error: OSError) -> None:
    """Images that cannot be seen are not left out without a word."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        found, remedy = error.strerror or str(error), "make it readable, or move it elsewhere"
        raise SourceError(error.filename, "a folder that can be read", found, remedy)


def folders_below(top: str) -> Iterator[tuple[str, list[str]]]:
    """Folders, but for hidden ones, and the files in each; every folder once: links may lead back to where they are."""
    seen = set()
    for here, folders, files in os.walk(top, onerror=unreadable, followlinks=True):
        place = os.stat(here)
        if (place.st_dev, place.st_ino) in seen:
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield here, files
