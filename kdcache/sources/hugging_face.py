"""Data sets of the library `datasets`: from its hub or its cache, saved on the disk, or as parquet files."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdcache.checks import advice, quoted, short
from kdcache.errors import KdcacheError, SourceError
from kdcache.limits import limit
from kdcache.sources.arrays import Source
from kdcache.sources.decode import file_bytes
from kdcache.sources.encoded import EncodedSource, settled
from kdcache.sources.listed import SPLITS, WRITTEN, before_options, numbered, rows_of, with_options

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

OPTIONS = ("image", "label", "config", "train", "eval")
LABELS = ("label", "labels", "cls", "class", "target", "fine_label")
SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves in a folder
KINDS = ("parquet", "arrow")


class HuggingFaceSource(EncodedSource):
    """Rows of a data set whose images are left encoded; `where` says which."""

    def __init__(self, spec, split, names, labels, classes, where, images: Dataset, column: str):
        super().__init__(spec, split, names, labels, classes, where)
        self.images, self.column = images, column

    def place(self, row):
        return f"{self.spec} {self.names[row]}"

    def encoded(self, row):
        found = self.images[int(self.where[row])][self.column]
        if isinstance(found, dict):
            path, found = found.get("path"), found.get("bytes")
            if found is None and path:
                return file_bytes(path)
        if not isinstance(found, bytes):
            raise SourceError(self.place(row), "an image", "nothing", "leave such rows out")
        if len(found) > (most := limit("KDCACHE_MAX_IMAGE_BYTES")):
            found = f"{len(found):,} bytes, more than the {most:,} that are read of it"
            raise SourceError(self.place(row), "a readable image", found, "replace or remove it")
        return found


def hugging_face(spec: str, argument: str, split: str) -> Source:
    """The split of a data set in map mode; its column of images and that of labels are those of such a type."""
    if importlib.util.find_spec("datasets") is None:
        raise KdcacheError(
            spec, "the library `datasets`, which reads it", "no such package", "pip install 'kdcache[hf]'"
        )
    name, options = with_options(spec, argument, OPTIONS)
    with explained(spec):
        parts = splits_of(spec, loaded(spec, name, options.get("config")), options)
        first = next(iter(parts.values()))
        image = column_of(spec, first, "image", options.get("image"), image_columns(first))
        assert image is not None  # one without is refused
        label = column_of(spec, first, "label", options.get("label"), label_columns(first, image))
        labels, classes = labelled(spec, parts.values(), label)
        places = [(part, row) for part, data in parts.items() for row in range(len(data))]
        names = [f"{part}/{row}" for part, row in places]
        taken = rows_of(spec, split, names, labels, [part for part, _ in places])
        where = np.array([places[row][1] for row in taken])
        images = undecoded(parts[places[taken[0]][0]], image)
    names = [names[row] for row in taken]
    return settled(HuggingFaceSource(spec, split, names, labels[taken], classes, where, images, image))


def undecoded(data: Dataset, column: str) -> Dataset:
    """That column alone, its images as they are stored."""
    import datasets

    images = data.select_columns([column]).with_format(None)  # a format that was saved may leave it out
    typed = isinstance(images.features[column], datasets.Image)
    return images.cast_column(column, datasets.Image(decode=False)) if typed else images


def path_of(argument: str) -> str:
    """What of the argument is a path: a name on the hub looks like one that is relative."""
    name = before_options(argument)
    return name if name.startswith(("/", "~", "./", "../")) or name.endswith(".parquet") else ""


@contextmanager
def explained(spec: str) -> Iterator[None]:
    """Whatever the library raises as an error of ours, without its progress bars."""
    import datasets

    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    except KdcacheError:
        raise
    except Exception as error:
        remedy = "name a data set of images on the hub or in its cache, or a folder: hf:./FOLDER"
        raise SourceError(spec, "a data set of images", short(error, 200), remedy) from None
    finally:
        if not bars:
            datasets.enable_progress_bars()


def loaded(spec: str, name: str, config: str | None) -> DatasetDict:
    """All the splits; of a folder, what `save_to_disk` wrote, or its parquet or arrow files and nothing else."""
    import datasets

    path = Path(os.path.expanduser(name))
    if not path.exists():
        if path_of(name):
            raise SourceError(path, "a folder or a parquet file", "nothing there", "correct the path")
        return datasets.load_dataset(name, config)
    if any((path / file).is_file() for file in SAVED):
        saved = datasets.load_from_disk(path)
        return saved if isinstance(saved, dict) else datasets.DatasetDict(train=saved)
    for kind in KINDS:
        files = [path] if path.suffix == f".{kind}" else sorted(path.rglob(f"*.{kind}"))
        if files:
            by_split: dict[str, list[str]] = {}
            for file in files:
                by_split.setdefault(split_in(file.relative_to(path.parent)), []).append(os.fspath(file.absolute()))
            return datasets.load_dataset(kind, data_files=by_split)
    raise SourceError(path, "parquet or arrow files", "none", "of folders of images, use folder:PATH")


def split_in(file: Path) -> str:
    """The split that a word in the name of a file, or in that of its folder, says; `train` without one."""
    words = [word for part in (file.name, file.parent.name) for word in re.findall("[a-z]+", part.lower())]
    return next((word for word in words if word in WRITTEN), "train")


def splits_of(spec: str, found: DatasetDict, options: dict[str, str]) -> dict[str, Dataset]:
    """The splits by the names that we have for them; those of options, else those that are called so."""
    given = {one: options[one] for one in ("train", "eval") if one in options}
    for name in given.values():
        if name not in found:
            raise SourceError(spec, f"a split {quoted(name)}", f"{', '.join(found)}", advice(name, found, "name one"))
    usual = WRITTEN if not given else () if "train" in given else SPLITS["train"]
    parts = {name: found[name] for name in found if name.lower() in usual}
    parts |= {one: found[name] for one, name in given.items()}
    if not parts and len(found) == 1:
        parts = {"train": found[next(iter(found))]}
    if not parts:
        raise SourceError(spec, "a split train", f"{', '.join(found)}", "name them: hf:NAME,train=SPLIT,eval=SPLIT")
    return parts


def image_columns(data: Dataset) -> list[str]:
    """Columns of images; where no type says so, of bytes."""
    import datasets

    typed = [name for name, kind in data.features.items() if isinstance(kind, datasets.Image)]
    bytes_ = [name for name, kind in data.features.items() if is_bytes(kind)]
    return typed or bytes_


def is_bytes(kind) -> bool:
    inner = kind.get("bytes") if isinstance(kind, dict) else kind
    return getattr(inner, "dtype", "") in ("binary", "large_binary")


def label_columns(data: Dataset, image: str) -> list[str]:
    """Columns of classes; where no type says so, those that are called so."""
    import datasets

    typed = [name for name, kind in data.features.items() if isinstance(kind, datasets.ClassLabel)]
    return typed or [name for name in data.features if name.lower() in LABELS and name != image]


def column_of(spec: str, data: Dataset, what: str, name: str | None, fitting: list[str]) -> str | None:
    """The column that is named, else the only one that fits; None where labels are in none."""
    every = ", ".join(f"{one} ({type(kind).__name__})" for one, kind in data.features.items())
    if name is not None and name not in data.features:
        raise SourceError(spec, f"a column {quoted(name)}", short(every, 200), advice(name, data.features, "name one"))
    if name is not None or len(fitting) == 1:
        return name or fitting[0]
    if what == "label" and not fitting:
        return None
    found = f"{len(fitting)} of {short(every, 200)}"
    raise SourceError(spec, f"one column of {what}s", found, f"say which: hf:NAME,{what}=COLUMN")


def labelled(spec: str, parts: Iterable[Dataset], column: str | None) -> tuple[np.ndarray, list[str]]:
    """The labels of all parts, one behind the other, and the names of the classes."""
    parts = list(parts)
    if column is None:
        return numbered(spec, [""] * sum(map(len, parts)))
    every = [value for data in parts for value in data.select_columns([column]).with_format(None)[:][column]]
    strange = next((one for one in every if one is not None and not isinstance(one, int | str)), None)
    if strange is not None:
        found = f"{short(strange)} in column {column}"
        raise SourceError(spec, "one class for each image", found, "name another column: hf:NAME,label=COLUMN")
    names = getattr(parts[0].features[column], "names", None)
    if names is None:
        return numbered(spec, ["" if one is None else str(one) for one in every])
    if any(getattr(data.features[column], "names", None) != names for data in parts):
        remedy = "cast it to one ClassLabel in all of them, or name splits: hf:NAME,train=SPLIT,eval=SPLIT"
        raise SourceError(spec, "the same classes in every split", f"others in column {column}", remedy)
    return np.array([-1 if one is None else one for one in every], np.int64), list(names)
