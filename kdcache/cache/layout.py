"""The file, version 1: where everything lies in it. One page.

    /meta               u8[]         UTF-8 JSON: who, what, how
    /labels             i32[N]       -1: unlabelled
    /constants/<name>   f32[...]     what a method made of the teacher
    /canaries/<name>    [K, ...]     row, view, crc, thumb, logits of some sample-views
    /digests            u64[N]       hash of every image                                    filled
    /seeds              u64[V,N]     augmentation seed of every sample-view                 filled
    /knowledge/<name>   record[V,N]  what the teacher said of it                            filled
    /eval/<name>        record[M]    what it said of the evaluation images                  filled
    /blocks/<dataset>   u64[V,NB]    per block of rows: DONE in the high half, CRC-32 in the low half
    /seal               u32          CRC-32 over what is not filled in, written last

Invariants: every dataset is contiguous, unfiltered, allocated at creation and aligned to 4096 bytes. HDF5 writes
once, at creation, under a private name; after that only the bytes of datasets change, by pwrite. A file is called
X.part until its last block and its seal are on disk. No pickle. A row of zeros in /blocks is a block not yet done.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from kdcache import codecs
from kdcache.codecs import Codec
from kdcache.errors import CacheError

FORMAT, VERSION = "kdcache", 1
FEATURES: frozenset[str] = frozenset()  # required features that this reader understands
DONE = 0x6B64_0001 << 32
BLOCK_ROWS = 1024
ALIGNMENT = 4096
SEALED = ("meta", "labels")  # with canaries and constants: what the seal covers


@dataclass(frozen=True)
class Place:
    """Where one dataset lies."""

    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass
class Layout:
    """A file's datasets and its meta, checked against each other; nothing is held open."""

    path: Path
    meta: dict
    places: dict[str, Place]
    codecs: dict[str, Codec] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.meta["source"]["rows"]

    @property
    def views(self) -> int:
        return self.meta["views"]

    @property
    def block_rows(self) -> int:
        return self.meta["block_rows"]

    def filled(self) -> list[str]:
        """The datasets that are filled in block by block."""
        return [name for name in self.places if f"blocks/{name}" in self.places]

    def blocks(self, dataset: str) -> tuple[int, int]:
        """How many views and blocks of rows a dataset has."""
        shape = self.places[f"blocks/{dataset}"].shape
        return (1, shape[0]) if len(shape) == 1 else shape

    def span(self, dataset: str, view: int, block: int) -> tuple[int, int, int]:
        """Offset in the file, length in bytes and number of rows of one block."""
        place = self.places[dataset]
        rows = place.shape[-1]
        first = block * self.block_rows
        count = min(self.block_rows, rows - first)
        return place.offset + (view * rows + first) * place.dtype.itemsize, count * place.dtype.itemsize, count

    def word_offset(self, dataset: str, view: int, block: int) -> int:
        return self.places[f"blocks/{dataset}"].offset + 8 * (view * self.blocks(dataset)[1] + block)


def block_rows(batch: int) -> int:
    """Whole forward batches, so that none straddles a block."""
    return max(1, BLOCK_ROWS // batch) * batch


def filled_datasets(meta: dict, place: object) -> tuple[dict[str, tuple[np.dtype, tuple[int, ...]]], dict[str, Codec]]:
    """Type and shape of every dataset that is filled in, and the codecs, as the meta promises them."""
    rows, views, held_out = meta["source"]["rows"], meta["views"], meta["eval"]["rows"]
    found = {name: codecs.from_json(place, header) for name, header in meta["knowledge"].items()}
    shapes = {"digests": (np.dtype("<u8"), (rows,)), "seeds": (np.dtype("<u8"), (views, rows))}
    for name, codec in found.items():
        shapes[f"knowledge/{name}"] = (codec.dtype, (views, rows))
        if held_out:
            shapes[f"eval/{name}"] = (codec.dtype, (held_out,))
    return shapes, found


def read_layout(path: Path) -> Layout:
    """Opens, checks and closes a file. Whatever is wrong with it is one clear error."""
    if not path.exists():
        part = part_of(path)
        found = f"an unfinished one, {part.name}" if part.exists() else "no such file"
        remedy = "run the same dump-logits again to finish it" if part.exists() else "make it with dump-logits"
        raise CacheError(path, "a finished cache", found, remedy)
    if path.is_dir():
        raise CacheError(path, "a cache file", "a folder", "name the .h5 file")
    try:
        with open(path, "rb") as file:
            if file.read(8) != b"\x89HDF\r\n\x1a\n":
                raise CacheError(path, "an HDF5 file", "something else", "check the name")
        with h5py.File(path, "r") as file:
            meta = read_meta(path, file)
            shapes, found = filled_datasets(meta, path)
            places = collect(path, file)
    except PermissionError:
        raise CacheError(path, "a readable file", "no permission", "check its mode and owner") from None
    except CacheError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        found = " ".join(str(error).split())[:160]
        if "truncated" in found:
            found = f"a file that was cut off ({path.stat().st_size} bytes are left)"
        raise CacheError(path, "a whole cache file", found, "copy or dump it again") from None
    layout = Layout(path, meta, places, found)
    check(layout, shapes)
    return layout


def read_meta(path: Path, file: h5py.File) -> dict:
    if "meta" not in file:
        raise CacheError(path, "a kdcache file", "another kind of HDF5 file", "see import-logits to wrap logits")
    meta = json.loads(bytes(file["meta"][:]))
    if meta.get("format") != FORMAT or meta.get("version") != VERSION:
        found = f"{meta.get('format')} version {meta.get('version')}"
        raise CacheError(path, f"{FORMAT} version {VERSION}", found, "read it with the kdcache that wrote it")
    if strange := set(meta["requires"]) - FEATURES:
        raise CacheError(path, "features that this version knows", ", ".join(sorted(strange)), "update kdcache")
    counts = [meta["source"]["rows"], meta["views"], meta["block_rows"]]
    if not all(type(n) is int and 0 < n < 1 << 40 for n in counts) or meta["eval"]["rows"] < 0:
        raise CacheError(path, "sensible numbers of rows and views", str(counts), "copy or dump it again")
    return meta


def collect(path: Path, file: h5py.File) -> dict[str, Place]:
    """The place of every dataset, refused unless it is contiguous and inside the file."""
    places, size = {}, os.path.getsize(path)

    def visit(name: str, item) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        place = Place(item.id.get_offset(), item.dtype, item.shape)
        if item.chunks or place.offset is None:
            raise CacheError(f"{path}:/{name}", "a contiguous dataset", "a chunked or empty one", "dump it again")
        if place.offset < 0 or place.offset + place.nbytes > size:
            found = f"bytes up to {place.offset + place.nbytes} of {size}"
            raise CacheError(f"{path}:/{name}", "data inside the file", found, "copy or dump it again")
        places[name] = place

    file.visititems(visit)
    return places


def check(layout: Layout, shapes: dict) -> None:
    """What lies in the file is what its meta says."""
    expected = dict(shapes)
    for name, (_, shape) in shapes.items():
        expected[f"blocks/{name}"] = (np.dtype("<u8"), (*shape[:-1], -(-shape[-1] // layout.block_rows)))
    expected["labels"] = (np.dtype("<i4"), (layout.rows,))
    expected["seal"] = (np.dtype("<u4"), (1,))
    for name, (dtype, shape) in expected.items():
        place = layout.places.get(name)
        base = Place(0, dtype, shape)
        if place is None or place.nbytes != base.nbytes or place.shape != shape or place.dtype != dtype:
            found = "none" if place is None else f"{place.dtype}{list(place.shape)}"
            remedy = "copy or dump it again"
            raise CacheError(f"{layout.path}:/{name}", f"{dtype}{list(shape)}", found, remedy)


def sealed_crc(layout: Layout, file) -> int:
    """CRC over everything that is not filled in, in the order of names."""
    crc = 0
    for name, place in sorted(layout.places.items()):
        if name in SEALED or name.startswith(("canaries/", "constants/")):
            crc = zlib.crc32(f"{name}:{place.dtype.str}:{place.shape}".encode(), crc)
            crc = zlib.crc32(os.pread(file.fileno(), place.nbytes, place.offset), crc)
    return crc


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")
