"""Packs: made, looked at, proved."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kdcache.checks import require_kind
from kdcache.errors import SourceError
from kdcache.jobs.data import DEFAULT_DATA, opener, opening
from kdcache.jobs.machine import require_place
from kdcache.packing import SPLITS, Packing, scaled, scaled_sizes, sizes_of
from kdcache.proof.verdicts import Check
from kdcache.seeds import PROBE, below, keyed
from kdcache.sources import Source
from kdcache.sources.pack import Pixels
from kdcache.sources.pack_file import PackFile, done, padding, read_finished, read_pack, words_in
from kdcache.threads import cores
from kdcache.types import quiet
from kdcache.wording import padded

COMPARED = 64  # images of each split that `verify` decodes again


def make_pack(
    data: str | None, out: str | os.PathLike, short: int | None = None, workers: int | None = None, progress=quiet
) -> Path:
    """Decodes the images of both splits once, into a file; finishes one that was begun.

    >>> make_pack("digits", "digits.kdp").name
    'digits.kdp'
    """
    path = require_kind(f"`out` {out}", require_place(out), "pack")
    train, held_out = (opening(progress)(data or DEFAULT_DATA, split) for split in SPLITS)
    return Packing(path, train, held_out, short, cores() if workers is None else workers).run(progress)


def facts_of_pack(file: str | os.PathLike) -> dict:
    """What is in a pack, finished or not.

    >>> facts_of_pack(make_pack("digits", "digits.kdp"))["images"]
    1797
    """
    found = read_pack(Path(file))
    images = sum(split.rows for split in found.splits.values())
    with open(file, "rb") as handle:
        packed = sum(int(done(words_in(handle, split)).sum()) for split in found.splits.values())
    sizes = np.concatenate([split.tables["sizes"] for split in found.splits.values()])
    low, high = sizes.min(0).tolist(), sizes.max(0).tolist()
    return {
        "file": str(file),
        "kind": "pack",
        "images_of": found.header["source"],
        "rows": found.splits["train"].rows,
        "eval_rows": found.splits["eval"].rows,
        "images": images,
        "images_done": packed,
        "complete": packed == images and Path(file).suffix != ".part",
        "classes": len(found.header["classes"]),
        "class_names": found.header["classes"],
        "short": found.header["short"],
        "smallest": low,
        "largest": high,
        "bytes": found.size,
        "libraries": found.header["libraries"],
    }


def verify_pack(
    file: str | os.PathLike, data: str | None = None, no_data: bool = False, progress=quiet
) -> Iterator[Check]:
    """Every check of a pack, and of the images that it was made from."""
    found = read_finished(Path(file))
    yield Check("header", True, "format version 1, seal right")
    filled = padding(found)
    yield Check("padding", not filled, padded(filled))
    pixels = {name: Pixels(found, split) for name, split in found.splits.items()}
    damaged = False
    for name, one in pixels.items():
        every = progress(range(one.split.rows), total=one.split.rows, desc=f"checking {name}")
        wrong = [row for row in every if not one.is_right(row)]
        damaged |= bool(wrong)
        where = f": the first is row {wrong[0]}" if wrong else ""
        yield Check(f"{name} pixels", not wrong, f"{len(wrong):,} of {one.split.rows:,} rows damaged{where}")
    if damaged or no_data:
        return
    try:
        opened = opener(file, {"spec": found.header["source"]}, data, opening(progress))
        sources = {name: opened(name) for name in SPLITS}
    except SourceError as error:
        yield Check("source", False, str(error))
        return
    for name, source in sources.items():
        yield from compared(found, pixels[name], source, progress)


def compared(file: PackFile, pixels: Pixels, source: Source, progress) -> Iterator[Check]:
    """Whether these are the images that were packed, and are decoded to the same pixels here."""
    split = pixels.split
    same = len(source) == split.rows and source.fingerprint() == split.facts["fingerprint"]
    said = "has" if same else "does not have"
    yield Check(f"{split.name} source", same, f"{source.spec} {said} the content hash of what was packed")
    if not same or not split.rows:
        return
    wrong = sum(one != known for one, known in zip(source.hashes(progress), split.tables["digests"], strict=True))
    yield Check(f"{split.name} images", not wrong, f"{wrong:,} of {split.rows:,} are others than were packed")
    rows = np.unique(below(keyed(0, np.arange(COMPARED), use=PROBE)[0], split.rows))
    again = [scaled(source.read([row])[0], file.header["short"]).numpy() for row in rows.tolist()]
    differ = sum(image.tobytes() != pixels.row(row).tobytes() for row, image in zip(rows.tolist(), again, strict=True))
    made = ", ".join(f"{name} {version}" for name, version in file.header["libraries"].items())
    cause = f", which {made} had decoded" if differ and made else ""
    yield Check(f"{split.name} decoded", not differ, f"{differ} of {len(rows)} are other pixels here{cause}")


def decoded(data: Source) -> bool:
    """Whether an image is decoded whenever it is read."""
    return not data.raw and data.resident is None


def estimate(data: Source, workers: int, short: int | None = None) -> dict:
    """Bytes of a pack of these images, shrunk if so wanted, and seconds that decoding them costs an epoch."""
    some = data.take(np.unique(below(keyed(0, np.arange(COMPARED), use=PROBE)[0], len(data))))
    pixels = 3 * float(scaled_sizes(sizes_of(some, workers), short).prod(1).mean())
    started = time.perf_counter()
    for row in range(len(some)) if decoded(data) else ():
        some.read([row])
    each = (time.perf_counter() - started) / len(some)
    return {"bytes": round(pixels * len(data)), "decode_seconds": each * len(data) / max(1, workers)}
