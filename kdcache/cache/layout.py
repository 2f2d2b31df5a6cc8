"""The file, version 2: where everything lies in it. One page.

    /meta               u8[]         UTF-8 JSON: who, what, how
    /labels             i32[N]       -1: unlabelled
    /eval_labels        i32[M]       the same of every evaluation image
    /eval_digests       u64[M]       hash of every evaluation image
    /constants/<name>   f32[...]     what a method made of the teacher
    /canaries/<name>    [K, ...]     row, view, crc, thumb, pixels, logits of some sample-views
    /digests            u64[N]       hash of every image                                    filled
    /seeds              u64[V,N]     augmentation seed of every sample-view                 filled
    /knowledge/<name>   record[V,N]  what the teacher said of it                            filled
    /eval/<name>        record[M]    what it said of the evaluation images                  filled
    /blocks/<dataset>   u64[V,NB]    per block of rows: DONE in the high half, CRC-32 of place and bytes in the low half
    /seal               u32          CRC-32 over what is not filled in, written with it; formerly zero until the end

In a file that requires `label-blocks`, as those of many rows do, labels have words in /blocks/labels, and the seal
covers these in their place.

Invariants: every dataset is contiguous, unfiltered, allocated at creation and aligned to 4096 bytes. HDF5's structures
are written once, at creation, under a private name; after that only the bytes of datasets change. A file is called
X.part until its last block is on disk. No pickle. A row of zeros in /blocks is a block not yet done.
What is in no dataset and no structure is zero.

Version 1 had neither /eval_labels nor /eval_digests, and its words knew the bytes of a block but not its place.
"""

from __future__ import annotations

import os
import shlex
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdcache import codecs
from kdcache.cache.hdf5 import SIGNATURE, Place, read_structure
from kdcache.cache.meta import LABEL_BLOCKS, LONGEST, REMEDY, read_header
from kdcache.cache.share import Shard
from kdcache.checks import short
from kdcache.codecs import Codec
from kdcache.durable import part_of
from kdcache.errors import CacheError

DONE = 0x6B64_0001 << 32
BLOCK_ROWS = 1024
LABEL_WORDS = "blocks/labels"
SEALED = {"meta", "labels", "eval_labels", "eval_digests"}  # with canaries and constants: what the seal covers
KNOWN = ("digests", "labels")  # what has blocks and is known when a file is begun
CANARIES = {"row": "<i8", "view": "<i8", "crc": "<u4"}  # beside them `logits`, `thumb`, `pixels`, if any
THUMB = (3, 8, 8)
SAMPLED = 4096  # values of each canary whose file is decoded, at even distances; of a smaller one, all
CHUNK = 1 << 20


@dataclass
class Layout:
    """A file's datasets and its meta, checked against each other; nothing is held open."""

    path: Path
    meta: dict
    places: dict[str, Place]
    codecs: dict[str, Codec] = field(default_factory=dict)
    spans: list[tuple[int, int]] | None = None  # where HDF5's structures lie, as far as that is known

    @property
    def version(self) -> int:
        return self.meta["version"]

    @property
    def rows(self) -> int:
        return self.meta["source"]["rows"]

    @property
    def views(self) -> int:
        return self.meta["views"]

    @property
    def block_rows(self) -> int:
        return self.meta["block_rows"]

    @property
    def shard(self) -> Shard:
        """Which shard of a dump it is; 0 of 1 is all of it."""
        shard = self.meta.get("shard", {"number": 1, "of": 1})
        return Shard(shard["number"] - 1, shard["of"])

    def filled(self) -> list[str]:
        """The datasets that are filled in block by block."""
        parts = [f"{part}/{name}" for part in ("eval", "knowledge") for name in self.codecs]
        return [name for name in (*KNOWN, *parts, "seeds") if f"blocks/{name}" in self.places]

    def blocks(self, dataset: str) -> tuple[int, int]:
        """How many views and blocks of rows a dataset has."""
        shape = self.places[f"blocks/{dataset}"].shape
        return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])

    def share(self, dataset: str) -> np.ndarray:
        """Which blocks are to be in this file: bool [V, NB], all but in a shard."""
        return self.shard.share(self.blocks(dataset))

    def span(self, dataset: str, view: int, block: int) -> tuple[int, int, int]:
        """Offset in the file, length in bytes and number of rows of one block."""
        place = self.places[dataset]
        rows = place.shape[-1]
        first = block * self.block_rows
        count = min(self.block_rows, rows - first)
        return place.offset + (view * rows + first) * place.dtype.itemsize, count * place.dtype.itemsize, count

    def word_offset(self, dataset: str, view: int, block: int) -> int:
        return self.places[f"blocks/{dataset}"].offset + 8 * (view * self.blocks(dataset)[1] + block)

    def word(self, dataset: str, view: int, block: int, data) -> int:
        """What says of a block that it is done."""
        return word_of(self.version, dataset, view, block, data)


def word_of(version: int, dataset: str, view: int, block: int, data) -> int:
    """DONE, and a CRC of the bytes and, from version 2 on, of where they belong."""
    return DONE | zlib.crc32(data, place_of(version, dataset, view, block))


def place_of(version: int, dataset: str, view: int, block: int) -> int:
    return zlib.crc32(f"{dataset}:{view}:{block}".encode()) if version > 1 else 0


def block_rows(batch: int) -> int:
    """Whole forward batches, so that none straddles a block."""
    return max(1, BLOCK_ROWS // batch) * batch


def filled_datasets(meta: dict, place: object) -> tuple[dict[str, tuple[np.dtype, tuple[int, ...]]], dict[str, Codec]]:
    """Type and shape of every dataset that is filled in, and the codecs, as the meta promises them."""
    rows, views, held_out = meta["source"]["rows"], meta["views"], meta["eval"]["rows"]
    found = {name: codecs.from_json(place, header) for name, header in meta["knowledge"].items()}
    shapes: dict[str, tuple[np.dtype, tuple[int, ...]]]
    shapes = {"digests": (np.dtype("<u8"), (rows,)), "seeds": (np.dtype("<u8"), (views, rows))}
    if LABEL_BLOCKS in meta["requires"]:
        shapes["labels"] = (np.dtype("<i4"), (rows,))
    for name, codec in found.items():
        shapes[f"knowledge/{name}"] = (codec.dtype, (views, rows))
        if held_out:
            shapes[f"eval/{name}"] = (codec.dtype, (held_out,))
    return shapes, found


def read_layout(path: Path) -> Layout:
    """Opens, checks and closes a file. Whatever is wrong with it is one clear error."""
    try:
        require_file(path)
        with open(path, "rb") as file:
            structure = read_structure(file.fileno())
            meta = read_header(path, read_meta(path, structure.places, file))
        shapes, found = filled_datasets(meta, path)
        layout = Layout(path, meta, structure.places, found, structure.spans if structure.known else None)
        check(layout, shapes)
    except PermissionError:
        raise CacheError(path, "a readable file", "no permission", "check its mode and owner") from None
    except CacheError:
        raise
    except Exception as error:  # a damaged or hostile file may lead JSON and NumPy anywhere
        found = short(error, 160) or type(error).__name__
        raise CacheError(path, "a whole cache file", found, REMEDY) from None
    return layout


def require_file(path: Path) -> None:
    """Refuses what is no HDF5 file, or one that is shorter or longer than it says itself."""
    if not path.exists():
        part = part_of(path)
        found = f"an unfinished one, {part.name}" if part.exists() else "no such file"
        remedy = "run the same command again to finish it" if part.exists() else "make it with dump-logits"
        raise CacheError(path, "a finished cache", found, remedy)
    if not path.is_file():
        raise CacheError(path, "a cache file", "a folder" if path.is_dir() else "no regular file", "name the .h5 file")
    with open(path, "rb") as file:
        head, size = file.read(48), os.fstat(file.fileno()).st_size
    if not head.startswith(SIGNATURE):
        raise CacheError(path, "an HDF5 file", "something else" if head else "an empty file", "check the name")
    if len(head) == 48 and head[8] != 2:  # other ones may carry no checksums, so that damage could go unseen
        raise CacheError(path, "a file as kdcache lays it out", f"a version {head[8]} of HDF5's", "give the original")
    end = int.from_bytes(head[28:36], "little")
    if size < max(end, 48):
        raise CacheError(path, f"{end} bytes", f"a file that was cut off ({size} bytes are left)", REMEDY)
    if size > end:
        raise CacheError(path, f"{end} bytes", f"{size - end} more behind its end", REMEDY)


def read_meta(path: Path, places: dict[str, Place], file) -> bytes:
    place = places.get("meta")
    if place is None or place.dtype != np.uint8 or len(place.shape) != 1 or "seal" not in places:
        raise CacheError(path, "a kdcache file", "another kind of HDF5 file", "see import-logits to wrap logits")
    if place.nbytes > LONGEST:
        raise CacheError(path, f"a header of at most {LONGEST} bytes", f"{place.nbytes}", REMEDY)
    return os.pread(file.fileno(), place.nbytes, place.offset)


def check(layout: Layout, shapes: dict) -> None:
    """What lies in the file is what its meta says."""
    expected = dict(shapes)
    for name, (_, shape) in shapes.items():
        expected[f"blocks/{name}"] = (np.dtype("<u8"), (*shape[:-1], -(-shape[-1] // layout.block_rows)))
    expected["labels"] = (np.dtype("<i4"), (layout.rows,))
    if layout.version > 1 and (held_out := layout.meta["eval"]["rows"]):
        expected |= {"eval_labels": (np.dtype("<i4"), (held_out,)), "eval_digests": (np.dtype("<u8"), (held_out,))}
    expected["seal"] = (np.dtype("<u4"), (1,))
    shown = layout.places["canaries/row"].shape[:1] if "canaries/row" in layout.places else (0,)
    if "pruned_from" not in layout.meta or any(name.startswith("canaries/") for name in layout.places):
        expected |= {f"canaries/{name}": (np.dtype(kind), shown) for name, kind in CANARIES.items()}
    asked = layout.codecs["logits"].shape if "logits" in layout.codecs else (len(layout.meta["source"]["classes"]),)
    also = {"canaries/logits": (np.dtype("<f4"), shown + asked), "canaries/thumb": (np.dtype("u1"), shown + THUMB)}
    also["canaries/pixels"] = (np.dtype("u1"), (*shown, sampled_values(layout.meta["view"]["size"])))
    expected |= {name: kind for name, kind in also.items() if name in layout.places}
    for name, (dtype, shape) in expected.items():
        place = layout.places.get(name)
        if place is None or place.shape != shape or place.dtype != dtype:
            found = "none" if place is None else f"{place.dtype}{list(place.shape)}"
            raise CacheError(f"{layout.path}:/{name}", f"{dtype}{list(shape)}", found, REMEDY)
    if LABEL_WORDS in layout.places.keys() - expected.keys():
        raise CacheError(f"{layout.path}:/{LABEL_WORDS}", f"none without {LABEL_BLOCKS} in `requires`", "some", REMEDY)
    for name, place in layout.places.items():
        if name.startswith("constants/") and place.dtype.kind not in "iufb":
            raise CacheError(f"{layout.path}:/{name}", "numbers", f"{place.dtype}{list(place.shape)}", REMEDY)


def sampled_values(size: Sequence[int]) -> int:
    """How many values are kept of a canary of this height and width."""
    height, width = size
    return min(SAMPLED, 3 * height * width)


def sealed(names: Iterable[str]) -> list[str]:
    """Those datasets of a file that the seal covers, in its order."""
    whole = SEALED if LABEL_WORDS not in names else SEALED - {"labels"} | {LABEL_WORDS}
    return sorted(name for name in names if name in whole or name.startswith(("canaries/", "constants/")))


def sealed_crc(layout: Layout, file) -> int:
    """CRC over everything that is not filled in, in the order of names."""
    crc = 0
    for name in sealed(layout.places):
        place = layout.places[name]
        crc = zlib.crc32(f"{name}:{place.dtype.str}:{place.shape}".encode(), crc)
        for start in range(0, place.nbytes, CHUNK):
            crc = zlib.crc32(os.pread(file.fileno(), min(CHUNK, place.nbytes - start), place.offset + start), crc)
    return crc


def shard_of(path: Path, number: int | str, of: int) -> Path:
    """Where a shard of a dump lies: beside what they are to become, `logits.shard2of4.h5`."""
    return path.with_name(f"{path.stem}.shard{number}of{of}{path.suffix}")


def merging(path: Path, shard: Shard) -> str:
    """The command that makes one file of a shard and the others."""
    whole = path.with_name(path.name.removesuffix(".part").replace(f".shard{shard.number + 1}of{shard.of}", ""))
    before, after = map(shlex.quote, str(shard_of(whole, "*", shard.of)).rsplit("*", 1))
    return f"kdcache merge {before}*{after} -o {shlex.quote(str(whole))}"
