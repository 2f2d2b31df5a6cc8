"""The figures of docs/scale.md: opening and reading a file of many rows whose records are zeros, a hole on the disk.

python tests/large_file.py 1e6 1e9     # in the current folder, removed afterwards; a billion rows take some minutes
"""

import os
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from kdcache.bench.process import known, memory, meta_of
from kdcache.cache import open_cache
from kdcache.cache.hdf5 import lay_out
from kdcache.cache.layout import DONE, filled_datasets, place_of, read_layout, sealed_crc
from kdcache.cache.meta import to_bytes
from kdcache.codecs import TopK

CLASSES, KEPT, OPENINGS, BATCHES, BATCH = 1000, 16, 3, 20, 256


def make(path: Path, rows: int) -> None:
    """A finished file of one view: every check finds it intact."""
    meta = meta_of(rows, CLASSES, 1, TopK((CLASSES,), KEPT))
    filled, _ = filled_datasets(meta, "/meta")
    content = {"meta": to_bytes(meta)} | {name: of for name, of in known(1).items() if name.startswith("canaries/")}
    for name, (dtype, shape) in filled.items():
        content[f"blocks/{name}"] = words(meta, name, dtype.itemsize, rows).reshape(*shape[:-1], -1)
    shapes = filled | {name: (array.dtype, array.shape) for name, array in content.items()}
    shapes |= {"labels": (np.dtype("<i4"), (rows,)), "seal": (np.dtype("<u4"), (1,))}
    structures, places, size = lay_out(shapes)
    with open(path, "w+b") as file:
        os.truncate(file.fileno(), size)
        os.pwrite(file.fileno(), structures, 0)
        for name, array in content.items():
            os.pwrite(file.fileno(), array.tobytes(), places[name].offset)
        seal = sealed_crc(read_layout(path), file)
        os.pwrite(file.fileno(), seal.to_bytes(4, "little"), places["seal"].offset)


def words(meta: dict, name: str, record: int, rows: int) -> np.ndarray:
    """Of every block of zeros; a CRC of zeros is linear in the bits of what it begins with."""
    block = meta["block_rows"]
    zeros, last = bytes(block * record), rows % block
    begun = np.array([place_of(meta["version"], name, 0, n) for n in range(-(-rows // block))], dtype="<u8")
    found = np.full_like(begun, zlib.crc32(zeros))
    for bit in range(32):
        moved = np.uint64(zlib.crc32(zeros, 1 << bit) ^ zlib.crc32(zeros))
        found ^= (begun >> np.uint64(bit) & np.uint64(1)) * moved
    if last:
        found[-1] = zlib.crc32(bytes(last * record), int(begun[-1]))
    return found | np.uint64(DONE)


def measure(path: Path) -> str:
    opened, first, again = [], [], []
    generator = np.random.default_rng(0)
    before = memory().get("own", 0)
    for _ in range(OPENINGS):
        started = time.perf_counter()
        cache = open_cache(path)
        opened.append(time.perf_counter() - started)
        batches = generator.integers(0, len(cache), (BATCHES, BATCH))
        for times in (first, again):
            started = time.perf_counter()
            for rows in batches:
                cache.read(0, rows, ["logits"])
            times.append(batches.size / (time.perf_counter() - started))
    grown = (memory().get("own", 0) - before) / 1e6
    seconds, touched, warm = (f"{min(one):,.2f} to {max(one):,.2f}" for one in (opened, first, again))
    return (
        f"opened in {seconds} s; random rows a second, at first {touched}, again {warm}; {grown:.0f} MB more of memory"
    )


if __name__ == "__main__":
    for text in sys.argv[1:]:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            path = Path(folder) / "large.h5"
            make(path, int(float(text)))
            print(f"{text} rows, {path.stat().st_size / 1e9:.2f} GB: {measure(path)}", flush=True)
