"""The data sets of torchvision that lie on the disk."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.checks import advice, array_of, quoted, short
from kdcache.errors import SourceError, UsageError
from kdcache.sources.arrays import ArraySource, Source
from kdcache.sources.cifar import data_folder
from kdcache.sources.encoded import settled
from kdcache.sources.folder import FolderSource
from kdcache.sources.listed import rows_of, with_options

EVALUATION = ("test", "val", "valid")  # what splits are called, in the order in which they are tried
UNASKED = {"self", "root", "train", "download", "loader", "kwargs"}
UNASKED |= {"transform", "target_transform", "transforms", "is_valid_file", "allow_empty"}


def library_set(spec: str, argument: str, split: str) -> Source:
    """The split of a data set that torchvision knows: of files where it tells their names, else of its arrays."""
    kind = kind_of(spec, argument.partition(",")[0])
    known = parameters(kind)
    data = made(spec, kind, with_options(spec, argument, known.keys() - UNASKED)[1], split)
    try:
        names = images = None
        if "loader" in known:
            names, labels = zip(*(data[row] for row in range(len(data))), strict=True)
            names = [os.path.relpath(name, data_folder()) for name in names]
        else:
            images, labels = arrays_of(data)
        labels = np.array([-1 if label is None else int(label) for label in labels], dtype=np.int64)
    except (TypeError, ValueError, AttributeError) as error:
        remedy = "make folders or a CSV file of it: folder:PATH, csv:FILE"
        raise SourceError(spec, "files or arrays with one class each", short(error, 100), remedy) from None
    classes = classes_of(data, labels)
    if not {"train", "split"} & known.keys():  # EuroSAT, say
        rows = rows_of(spec, split, names or [str(row) for row in range(len(labels))], labels, None)
        labels, names = labels[rows], names and [names[row] for row in rows]
        images = None if images is None else images[rows]
    if names:
        return settled(FolderSource(data_folder().absolute(), split, names, labels, classes, spec=spec))
    assert images is not None  # what has no files has arrays
    size = images.shape[2:]
    view = "crop-flip" if size == (32, 32) else f"resized-crop:{min(224, *size)}"
    return ArraySource(split, torch.from_numpy(np.ascontiguousarray(images)), labels, classes, view, spec=spec)


def kind_of(spec: str, name: str) -> type:
    """The class of that name."""
    from torchvision import datasets  # seconds to import

    every = {one: getattr(datasets, one) for one in datasets.__all__ if not one.endswith("Folder")}
    known = {one: kind for one, kind in every.items() if isinstance(kind, type) and "root" in parameters(kind)}
    if name not in known:
        raise UsageError("`data`", "a data set of torchvision", repr(spec), advice(name, known, "try torchvision:SVHN"))
    return known[name]


def parameters(kind: type) -> dict[str, inspect.Parameter]:
    """What it can be made with, by itself or by the class that it hands **kwargs on to."""
    found = dict(inspect.signature(kind.__init__).parameters)  # type: ignore[misc]  # nothing is called
    if "kwargs" in found:
        inner = inspect.signature(kind.__mro__[1].__init__)  # type: ignore[misc]  # nothing is called
        found = dict(inner.parameters) | found
    return found


def made(spec: str, kind: type, asked: dict[str, str], split: str):
    """The data set, in the first split that it has of those that may be meant; nothing is downloaded."""
    known = parameters(kind)
    given: dict[str, object] = {name: int(value) if value.isdecimal() else value for name, value in asked.items()}
    given |= {name: value for name, value in (("download", False), ("loader", os.fspath)) if name in known}
    if "train" in known:
        given["train"] = split == "train"
    error: Exception = ValueError("no split for evaluation")
    for more in splits(known, split) if not {"split", "train"} & given.keys() else [{}]:
        try:
            return kind(data_folder(), **given, **more)
        except Exception as one:  # the libraries behind it may raise anything
            error = one
            if "Unknown value" not in str(one):
                break
    if isinstance(error, TypeError | ValueError):
        expected = f"{kind.__name__} with options {', '.join(known.keys() - UNASKED) or 'none'}"
        raise UsageError(
            "`data`", expected, f"{quoted(spec)}: {short(error, 150)}", "write torchvision:NAME,OPTION=VALUE"
        )
    remedy = f"put it into {data_folder()}/ as torchvision lays it out, or name its folder in KDCACHE_DATA"
    raise SourceError(spec, f"{kind.__name__} in {data_folder()}", short(error, 150), remedy) from None


def splits(known: dict[str, inspect.Parameter], split: str) -> Iterator[dict[str, str]]:
    """Values of its parameter `split`: where it has a default for training, as trainval, that one."""
    if "split" not in known:
        yield {}
    elif split == "eval":
        yield from ({"split": name} for name in EVALUATION)
    else:
        usual = known["split"].default
        yield {"split": usual if isinstance(usual, str) and usual.startswith("train") else "train"}


def arrays_of(data) -> tuple[np.ndarray, np.ndarray]:
    """Images as uint8 [n, 3, h, w], grey ones made RGB, and their labels."""
    images, labels = array_of(data.data), data.targets if hasattr(data, "targets") else data.labels
    labels = array_of(labels)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(f"{images.dtype} {list(images.shape)}")
    if images.ndim == 3:
        images = np.repeat(images[:, None], 3, 1)
    elif images.shape[3] == 3:
        images = images.transpose(0, 3, 1, 2)
    return images, labels if labels.ndim == 1 else labels[:, 0]  # QMNIST's have more to say


def classes_of(data, labels: np.ndarray) -> list[str]:
    """The names that it has for its classes, else their numbers."""
    names = getattr(data, "classes", None) or getattr(data, "categories", None) or []
    names = [name if isinstance(name, str) else ", ".join(name) for name in names]
    count = int(labels.max(initial=-1)) + 1
    return names if len(names) >= count else [str(number) for number in range(count)]
