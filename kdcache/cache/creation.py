"""Creating a cache file at its full size, whole or not at all."""

from __future__ import annotations

import errno
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from kdcache.cache.hdf5 import lay_out
from kdcache.cache.layout import Layout, filled_datasets, read_layout, sealed, word_of
from kdcache.cache.meta import to_bytes
from kdcache.checks import sync_folder
from kdcache.durable import (
    alone_in,
    clear_leftovers,
    fill_in,
    name_it,
    part_of,
    private_file,
    refused,
    require_room,
    reserve,
)


def create(path: Path, meta: dict, known: Mapping[str, np.ndarray]) -> None:
    """Makes X.part at its full size, or none at all. `known` are the datasets whose content is known already."""
    part = part_of(path)
    content = content_of(meta, known)
    _, codecs = filled_datasets(meta, "/meta")
    require_room(path, bytes_of(meta, known))
    try:
        clear_leftovers(part)
        with alone_in(part.absolute().parent), private_file(part) as (private, descriptor):
            structures, places, size = lay_out(shapes_of(meta, known))
            os.ftruncate(descriptor, size)
            for offset, length in room(Layout(private, meta, places, codecs), size):
                reserve(descriptor, length, offset)
            fill_in(descriptor, {0: structures} | {places[name].offset: flat(array) for name, array in content.items()})
            if read_layout(private).places != places:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if not path.exists():
                name_it(private, part)
        sync_folder(part)
    except OSError as error:
        raise refused(path, error) from None


def shapes_of(meta: dict, known: Mapping[str, np.ndarray]) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Type and shape of every dataset."""
    rows, (filled, _) = meta["block_rows"], filled_datasets(meta, "/meta")
    words = {f"blocks/{name}": (np.dtype("<u8"), (*s[:-1], -(-s[-1] // rows))) for name, (_, s) in filled.items()}
    given = {name: (array.dtype, array.shape) for name, array in {"meta": to_bytes(meta), **known}.items()}
    return filled | words | given | {"seal": (np.dtype("<u4"), (1,))}


def content_of(meta: dict, known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The content of those datasets that have some from the beginning."""
    filled, _ = filled_datasets(meta, "/meta")
    content = {"meta": to_bytes(meta)} | dict(known)
    content |= {f"blocks/{name}": words_of(meta, name, known[name]) for name in filled if name in known}
    return content | {"seal": np.array([seal_of(content)], dtype="<u4")}


def seal_of(content: Mapping[str, np.ndarray]) -> int:
    """What `sealed_crc` has to find in the file."""
    crc = 0
    for name in sealed(content):
        array = content[name]
        crc = zlib.crc32(f"{name}:{array.dtype.str}:{array.shape}".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(array).data, crc)
    return crc


def bytes_of(meta: dict, known: Mapping[str, np.ndarray]) -> int:
    """What a file takes on disk, within a few pages; of a shard, its share."""
    sizes = {name: dtype.itemsize * math.prod(shape) for name, (dtype, shape) in shapes_of(meta, known).items()}
    whole = {"meta", "seal", *known}
    shared = sum(size for name, size in sizes.items() if name not in whole and not name.startswith("blocks/"))
    return sum(sizes.values()) - shared + -(-shared // meta.get("shard", {"of": 1})["of"])


def room(layout: Layout, size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of what is reserved on the disk: a whole file, or of a shard's blocks only its own."""
    if "shard" not in layout.meta:
        yield 0, size
        return
    yield 0, min(place.offset for place in layout.places.values())
    filled = layout.filled()
    for name, place in layout.places.items():
        if name not in filled:
            yield place.offset, place.nbytes
            continue
        for view, block in np.argwhere(layout.share(name)).tolist():
            yield layout.span(name, view, block)[:2]


def flat(array: np.ndarray) -> memoryview:
    """Its bytes, not copied: those of a billion rows would not fit twice."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def words_of(meta: dict, name: str, array: np.ndarray) -> np.ndarray:
    """The words of a one-dimensional dataset that is done."""
    rows = meta["block_rows"]
    parts = (np.ascontiguousarray(array[start : start + rows]) for start in range(0, len(array), rows))
    return np.array([word_of(meta["version"], name, 0, block, part) for block, part in enumerate(parts)], dtype="<u8")
