"""What lies where in tar shards, kept in a file of its own beside them.

    kdcache shards 1\n <hash of what follows, 32 hexadecimal digits>\n
    JSON of {"shards": [[name, bytes, time of change]], "rows", "names": bytes, "labels": bytes}\n
    rows of ROW, then names and labels as UTF-8 with a NUL between any two

It is remade when an archive has another size or time, and when it is damaged.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdcache.checks import own_folder, replace
from kdcache.errors import SourceError
from kdcache.limits import read_bytes
from kdcache.sources.arrays import blake

FIRST_LINE = b"kdcache shards 1\n"
ROW = np.dtype([("shard", "<i4"), ("header", "<i8"), ("start", "<i8"), ("length", "<i8"), ("crc", "<u4")])
LARGEST = 1 << 36  # bytes


class Index(NamedTuple):
    """Place, name and label of every image."""

    where: np.ndarray  # of ROW
    names: list[str]
    labels: list[str]


def index_of(shards: list[str], label: str, samples: Callable[[int], Iterable[tuple]]) -> tuple[Index, Path]:
    """The index of these archives, and where it lies: read where it still is theirs, else made and left for the next.

    `samples(number)` gives place, name and label of the images of an archive.
    """
    try:
        state = [[os.path.basename(shard), (s := os.stat(shard)).st_size, s.st_mtime_ns] for shard in shards]
    except OSError as error:
        raise SourceError(error.filename, "a tar archive", error.strerror or "none", "restore it") from None
    key = blake(os.fsencode("\0".join(shards_named(shards))), label.encode())
    name = f".kdcache-{key[:16]}.index"
    places = [Path(shards[0]).parent / name, own_folder() / name]  # some folders cannot be written
    for place in places:
        if (found := read(place, state)) is not None:
            return found, place
    rows = [sample for number in range(len(shards)) for sample in samples(number)]
    if not rows:
        raise SourceError(shards[0], "samples with a .jpg, .jpeg, .png or .webp", "none", "name other archives")
    where, names, labels = (list(column) for column in zip(*rows, strict=True))
    made = Index(np.array(where, ROW), names, labels)
    return made, next((place for place in places if written(place, state, made)), places[0])


def shards_named(shards: list[str]) -> list[str]:
    """Their names from the folder of the first, so that they may move together."""
    return [os.path.relpath(shard, os.path.dirname(shards[0])) for shard in shards]


def read(path: Path, state: list) -> Index | None:
    """What the file holds; None where it is none, damaged, or of archives as they no longer are."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        data = read_bytes(path, LARGEST)
        first, digest, rest = data[: len(FIRST_LINE)], data[len(FIRST_LINE) :][:32], data[len(FIRST_LINE) + 33 :]
        if first != FIRST_LINE or digest.decode() != blake(rest):
            return None
        header, _, rest = rest.partition(b"\n")
        header = json.loads(header)
        if header["shards"] != state:
            return None
        sizes = [header["rows"] * ROW.itemsize, header["names"], header["labels"]]
        if sum(sizes) != len(rest) or min(sizes) < 0:
            return None
        where = np.frombuffer(rest[: sizes[0]], ROW)
        names = rest[sizes[0] :][: sizes[1]].decode("utf-8", "surrogateescape").split("\0")
        labels = rest[sizes[0] + sizes[1] :].decode("utf-8", "surrogateescape").split("\0")
        ends = np.array([size for _, size, _ in state])
        if len(names) == len(labels) == len(where) and inside(where, ends):
            return Index(where, names, labels)
    return None


def inside(where: np.ndarray, ends: np.ndarray) -> bool:
    """Whether every place lies in its archive: anybody may have written the file."""
    number, header, start, length = (where[name].astype(np.int64) for name in ("shard", "header", "start", "length"))
    if not ((number >= 0) & (number < len(ends))).all():
        return False
    end = ends[number]
    return bool(((header >= 0) & (header < end) & (start >= 0) & (start <= end) & (length >= 0)).all()) and bool(
        (length <= end - start).all()
    )


def written(path: Path, state: list, index: Index) -> bool:
    """Whether it could be written there; it appears whole or not at all."""
    names, labels = ("\0".join(texts).encode("utf-8", "surrogateescape") for texts in (index.names, index.labels))
    header = {"shards": state, "rows": len(index.where), "names": len(names), "labels": len(labels)}
    rest = b"".join([json.dumps(header).encode(), b"\n", index.where.tobytes(), names, labels])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, b"".join([FIRST_LINE, blake(rest).encode(), b"\n", rest]))
    except OSError:
        return False
    return True
