"""Random batches out of a cache, against h5py on the same file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import h5py
import numpy as np

from kdcache.bench.fixture import made_cache
from kdcache.bench.timing import alternate, median_rate, ratio
from kdcache.cache import open_cache

ROWS, BATCH, BATCHES, ROUNDS = 50_000, 256, 20, 15


def bench_read(progress) -> dict:
    """Rows a second, decoded, in batches of 256 random rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = made_cache(Path(folder) / "read.h5", ROWS, classes=32, views=1)
        cache = open_cache(path)
        generator = np.random.default_rng(0)
        batches = [generator.integers(0, ROWS, BATCH) for _ in range(BATCHES)]
        increasing = [np.unique(rows) for rows in batches]  # h5py takes nothing else
        memory = cache.records("logits", 0, range(ROWS)).copy()
        with h5py.File(path) as file:
            table = file["knowledge/logits"]
            sides = {
                "kdcache, decoded": lambda: [cache.read(0, rows, ["logits"]) for rows in batches],
                "kdcache, decoded, again": lambda: [cache.read(0, rows, ["logits"]) for rows in batches],
                "kdcache, bytes": lambda: [cache.records("logits", 0, rows) for rows in batches],
                "gather from memory": lambda: [memory[rows] for rows in batches],
                "h5py, fancy indexing": lambda: [table[0, rows] for rows in increasing],
            }
            times = alternate(sides, ROUNDS, progress, "read")
    return {
        "what": f"random batches of {BATCH} of {ROWS} rows, 64 bytes each (f16, 32 classes)",
        "unit": "rows/s",
        "rates": {name: median_rate(values, BATCH * BATCHES) for name, values in times.items()},
        "ratios": {
            "h5py / kdcache, time": (ratio(times, "h5py, fancy indexing", "kdcache, decoded"), "20 or more"),
            "bytes / gather from memory, time": (ratio(times, "kdcache, bytes", "gather from memory"), "3 or less"),
            "A / A": (ratio(times, "kdcache, decoded, again", "kdcache, decoded"), "the noise"),
        },
    }
