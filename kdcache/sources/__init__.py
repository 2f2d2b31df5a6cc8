"""Labelled images in a fixed order. `open_source("digits")`, `open_source("folder:/data/birds", "eval")`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kdcache.checks import Range, advice
from kdcache.errors import UsageError
from kdcache.sources.arrays import Source, digits, synthetic
from kdcache.sources.cifar import cifar10, cifar100
from kdcache.sources.csv_file import csv_table
from kdcache.sources.encoded import held
from kdcache.sources.folder import image_folder
from kdcache.sources.hugging_face import hugging_face, path_of
from kdcache.sources.listed import before_options
from kdcache.sources.pack import packed
from kdcache.sources.shards import path_before, tar_shards
from kdcache.sources.torchvision import library_set
from kdcache.types import quiet


class Kind(NamedTuple):
    """A kind of source: what opens it, and what a user reads of it."""

    open: Callable[[str, str, str], Source]
    """(what the user wrote, the argument in it, split) -> Source"""
    help: str
    argument: str = ""
    """What has to be written behind the name and a colon."""
    path: Callable[[str], str] = str
    """What of it is a path, from its beginning on; nothing where it is none."""


def no_path(argument: str) -> str:
    return ""


SOURCES: dict[str, Kind] = {
    "digits": Kind(digits, "1 797 handwritten digits, embedded: 32x32, 10 classes"),
    "cifar10": Kind(cifar10, "50 000 + 10 000 photographs: 32x32, 10 classes"),
    "cifar100": Kind(cifar100, "50 000 + 10 000 photographs: 32x32, 100 classes"),
    "folder": Kind(
        image_folder,
        "folder:PATH with train/<class>/ and test/<class>/ or val/<class>/, or <class>/ or images alone",
        "PATH",
    ),
    "csv": Kind(
        csv_table,
        "csv:FILE with columns path, label and perhaps split; paths are relative to it",
        "FILE",
        before_options,
    ),
    "hf": Kind(
        hugging_face,
        "hf:NAME of a data set of the hub, or hf:./FOLDER with parquet files or what was saved",
        "NAME",
        path_of,
    ),
    "wds": Kind(
        tar_shards, "wds:SHARDS, tar archives by their names: wds:shards/{train,val}-*.tar", "SHARDS", path_before
    ),
    "torchvision": Kind(
        library_set,
        "torchvision:NAME of a class of torchvision.datasets, as SVHN, that is on the disk",
        "NAME",
        no_path,
    ),
    "pack": Kind(packed, "pack:FILE.kdp, what `kdcache pack` made: images that are decoded already", "FILE.kdp"),
    "synthetic": Kind(
        synthetic, "synthetic:ROWS,CLASSES,SIZE made-up images that can be learnt", "ROWS,CLASSES,SIZE", no_path
    ),
}


def open_source(
    spec: str, split: str = "train", fraction: float = 1.0, place: str | None = None, progress=quiet
) -> Source:
    """The images of one split, `train` or `eval`; `fraction` takes a stratified part of the training rows.

    `place` is where images lie now whose name, `spec`, has another place in it.

    >>> source = open_source("digits")
    >>> len(source), source.read([0, 5]).shape
    (1437, torch.Size([2, 3, 32, 32]))
    """
    require_path(spec)
    name, colon, argument = spec.partition(":")
    if name not in SOURCES:
        hint = advice(name, SOURCES, "`kdcache list sources` explains them")
        if os.path.isdir(os.path.expanduser(spec)):
            hint = f"did you mean folder:{spec}?"
        raise UsageError("`data`", f"one of {', '.join(SOURCES)}", repr(spec), hint)
    kind = SOURCES[name]
    if bool(argument) != bool(kind.argument) or (colon and not argument):
        expected = f"{name}:{kind.argument}" if kind.argument else name
        raise UsageError("`data`", expected, repr(spec), f"write {expected}")
    Range(above=0, most=1, remedy="0.25 takes a quarter").checked("`fraction`", fraction)
    source = held(kind.open(spec, place or argument, split), progress)
    return source.part(fraction) if split == "train" and fraction < 1 else source


def require_path(spec: str) -> None:
    """Refuses what no file system has as a name."""
    try:
        named = b"\0" not in os.fsencode(spec)
    except UnicodeEncodeError:
        named = False
    if not named:
        raise UsageError("`data`", "a name that files can have", repr(spec), "correct it")


MOST_PARTS = 16  # of a path that is searched for


def located(spec: str, file: str | os.PathLike) -> str | None:
    """Where images lie now that a file of ours names by a path; None where they have no path, or nothing is found.

    The path may have been typed in another folder, or the images moved, together with the file or not. It is tried as
    it stands, then from the current folder, the file's own and those above that: whole, and then its last parts alone.
    """
    path, more = path_in(spec)
    if not path or os.path.exists(path):
        return f"{path}{more}" or None
    parts = [part for part in path.split(os.sep) if part not in ("", ".", "..")][-MOST_PARTS:]
    bases = [os.getcwd(), *map(os.fspath, Path(file).absolute().parents)]
    endings = (os.path.join(*parts[first:]) for first in range(len(parts)))
    candidates = (os.path.join(base, ending) for ending in endings for base in bases)
    found = next(filter(os.path.exists, candidates), None)
    return found and f"{found}{more}"


def path_in(spec: str) -> tuple[str, str]:
    """The path in the name of images, nothing where none is in it, and what stands behind the path.

    >>> path_in("csv:birds.csv,label=species"), path_in("digits")
    (('birds.csv', ',label=species'), ('', ''))
    """
    name, _, argument = spec.partition(":")
    path = SOURCES[name].path(argument) if name in SOURCES else ""
    return os.path.expanduser(path), argument[len(path) :] if path else ""
