"""Whether a cache finds its rows by content, in copies of its data set that were changed in every way but that one.

    python tests/attacks/lookup.py --count 10000000 --seed 0

Each trial is one look-up. Some copies are files: a folder, tar archives or a table, whose images have other names,
another order, and are fewer or more. Others are arrays, as many as ImageNet has. Images that were added differ from one
of the data set in a single bit, or in a note. What is right is known from the bytes themselves, never from a digest.
Outcomes:

    right        the row of that image, the first one where several have its bytes
    missing      no row, of an image that the cache does not know
    wrong row    a row of another image
    not found    no row, of an image that the cache knows
    made up      a row, of an image that the cache does not know
"""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from common import must, options, report, workplace

GOOD = ("right", "missing")
IMAGENET = 1_281_167
FILES = 240  # images in the copies that are files
ASK = "--views 1 --accuracy 0.9"


class Arrays:
    """Copies in memory of images without files."""

    def __init__(self, rows: int):
        from kdcache.cache import open_cache
        from kdcache.sources import open_source

        spec = f"synthetic:{rows},10,4"
        must(f"pseudo-teacher --data {spec} {ASK} -o arrays.h5")
        self.cache = open_cache("arrays.h5")
        self.pixels = open_source(spec).resident.numpy().reshape(rows, -1)
        self.known = rows_by_bytes([image.tobytes() for image in self.pixels])
        self.first = self.rows_of(self.pixels)

    def rows_of(self, pixels: np.ndarray) -> np.ndarray:
        return np.array([self.known.get(image.tobytes(), -1) for image in pixels], dtype=np.int64)

    def copies(self, draw: np.random.Generator) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """What was done to a copy, the digests of its images, and their rows."""
        rows = len(self.pixels)
        kept = np.flatnonzero(draw.random(rows) < draw.uniform(0.1, 0.9))
        shards = np.array_split(np.arange(rows), draw.integers(2, 100))
        orders = {
            "shuffled": draw.permutation(rows),
            "filtered": kept,
            "filtered and shuffled": draw.permutation(kept),
            "re-sharded": np.concatenate([draw.permutation(shards[n]) for n in draw.permutation(len(shards))]),
            "repeated": draw.integers(0, rows, rows),
        }
        for what, order in orders.items():
            yield what, digests_of(self.pixels[order]), self.first[order]
        strange = self.pixels[kept].copy()
        strange[np.arange(len(kept)), draw.integers(0, strange.shape[1], len(kept))] ^= 1
        order = draw.permutation(rows + len(kept))
        truth = np.concatenate([self.first, self.rows_of(strange)])
        yield "grown", digests_of(np.concatenate([self.pixels, strange])[order]), truth[order]


class Files:
    """Copies on the disk of a folder of images."""

    def __init__(self):
        from PIL import Image

        from kdcache.cache import open_cache
        from kdcache.sources import open_source

        generator = np.random.default_rng(0)
        for number in range(FILES):
            place = Path("photos", "train", "ab"[number % 2])
            place.mkdir(parents=True, exist_ok=True)
            if number % 10 < 8:  # the others are copies of the one before them
                image = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            image.save(place / f"{number:04}.png")
        shutil.copytree("photos/train", "photos/test")
        must(f"pseudo-teacher --data folder:photos {ASK} -o files.h5")
        self.cache = open_cache("files.h5")
        self.bytes = [Path("photos", name).read_bytes() for name in open_source("folder:photos").names]

    def copies(self, draw: np.random.Generator) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        from kdcache.sources import open_source

        known = rows_by_bytes(self.bytes)
        for what, write in {"folders": in_folders, "tar archives": in_archives, "a table": in_table}.items():
            kept = [data for data in self.bytes if draw.random() < 0.8]
            strange = [changed(data, draw) for data in kept if draw.random() < 0.1]
            every = [*kept, *strange, *kept[: len(kept) // 10]]
            draw.shuffle(every)
            shutil.rmtree("copy", ignore_errors=True)
            source = open_source(write([(random_name(draw), data) for data in every]))
            # what is where is read from the copy itself, past the source
            truth = [known.get(data, -1) for data in read_again(what, source.names)]
            yield f"files in {what}", source.digests(range(len(source))), np.array(truth)


def rows_by_bytes(images: Sequence[bytes]) -> dict[bytes, int]:
    """Of each image the first row that has its bytes."""
    return {data: row for row, data in reversed([*enumerate(images)])}


def digests_of(images: np.ndarray) -> np.ndarray:
    from kdcache import digest

    return np.fromiter((digest(image) for image in images), np.uint64, len(images))


def random_name(draw: np.random.Generator) -> str:
    return f"{draw.integers(0, 2**60):015x}"


def changed(data: bytes, draw: np.random.Generator) -> bytes:
    """The same picture in other bytes: text that no decoder reads, of random length."""
    chunk = b"tEXt" + b"note\0" + bytes(draw.integers(65, 91, draw.integers(1, 9), dtype=np.uint8))
    end = data.rindex(b"IEND") - 4
    return data[:end] + (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + data[end:]


def in_folders(images: list[tuple[str, bytes]]) -> str:
    for number, (name, data) in enumerate(images):
        for split in ("train", "test"):
            place = Path("copy", split, "ab"[number % 2])
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{name}.png").write_bytes(data)
    return "folder:copy"


def in_archives(images: list[tuple[str, bytes]]) -> str:
    Path("copy").mkdir()
    for shard in range(3):
        with tarfile.open(f"copy/train-{shard}.tar", "w") as archive:
            for name, data in images[shard::3]:
                for file, content in ((f"{name}.png", data), (f"{name}.cls", b"0")):
                    member = tarfile.TarInfo(file)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return "wds:copy/train-{0..2}.tar"


def in_table(images: list[tuple[str, bytes]]) -> str:
    Path("copy").mkdir()
    for name, data in images:
        Path("copy", f"{name}.png").write_bytes(data)
    lines = [f"{name}.png,{number % 2},train" for number, (name, _) in enumerate(images)]
    Path("copy", "list.csv").write_text("\n".join(["path,label,split", *lines]))
    return "csv:copy/list.csv"


def read_again(what: str, names) -> list[bytes]:
    """The bytes of the images that a copy has, by the names of its source."""
    if what != "tar archives":
        return [Path("copy", name).read_bytes() for name in names]
    found = {}
    for path in Path("copy").glob("*.tar"):
        with tarfile.open(path) as archive:
            found |= {Path(member.name).stem: archive.extractfile(member).read()
                      for member in archive if member.name.endswith(".png")}  # fmt: skip
    return [found[Path(name).name.partition(".")[0]] for name in names]


def judged(found: np.ndarray, truth: np.ndarray) -> Counter:
    there, said = truth >= 0, found >= 0
    return Counter({
        "right": int((there & (found == truth)).sum()), "missing": int((~there & ~said).sum()),
        "wrong row": int((there & said & (found != truth)).sum()), "not found": int((there & ~said).sum()),
        "made up": int((~there & said).sum()),
    })  # fmt: skip


def run(count: int, seed: int) -> tuple[Counter, float, float]:
    """What came of it, look-ups in a second of one core, and bytes of a row."""
    found, seconds, draw = Counter(), 0.0, np.random.default_rng(seed)
    sides = [Files(), Arrays(min(IMAGENET, max(1000, count // 8)))]
    while found.total() < count:
        for side in sides:
            for what, digests, truth in side.copies(draw):
                left = max(0, count - found.total())
                began = time.process_time()
                rows = side.cache.rows_of(digests[:left])
                seconds += time.process_time() - began
                for outcome, times in judged(rows, truth[:left]).items():
                    found[what, outcome] += times
    lookup = sides[1].cache.lookup
    return +found, found.total() / seconds, lookup.nbytes / len(lookup.rows)


if __name__ == "__main__":
    chosen = options(__doc__, 1_000_000)
    with workplace():
        outcomes, rate, size = run(chosen.count, chosen.seed)
    if not chosen.as_json:
        print(f"{rate / 1e6:.2f} million look-ups in a second of one core, {size:g} bytes a row")
    sys.exit(report(outcomes, GOOD, chosen.as_json))
