"""Random batches out of a cache, against h5py on the same file."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from kdcache.bench.fixture import made_cache
from kdcache.bench.timing import alternate, rate, ratio
from kdcache.cache import open_cache
from kdcache.views.pipeline import one_thread

ROWS, MANY, BATCH, BATCHES, ROUNDS = 50_000, 10_000, 256, 20, 31
F16 = "f16, 32 classes, 64 bytes"
INT8 = "int8, 32 classes, 36 bytes"
TOPK = "top-16 of 1000, to dense"


def bench_read(progress) -> dict:
    """Rows a second in batches of 256 random rows, in one thread."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(one_thread())
        place = Path(folder)
        sides = around(made_cache(place / "f16.h5", ROWS, 32, 1), stack)
        sides[INT8] = decoded(made_cache(place / "int8.h5", ROWS, 32, 1, "int8"), ROWS)
        sides[TOPK] = decoded(made_cache(place / "topk.h5", MANY, 1000, 1, "topk:16"), MANY)
        times = alternate(sides, ROUNDS, progress, "read")
    bars = {F16: "10 million or more", INT8: "5 million or more", TOPK: "2 million or more"}
    figures = [
        rate(times, name, name, BATCH * BATCHES, "rows/s", bars.get(name, "")) for name in times if "again" not in name
    ]
    figures += [
        ratio(times, "h5py / f16 decoded, time", "h5py, its bytes", F16, "25 or more"),
        ratio(times, "h5py / its bytes, time", "h5py, its bytes", "its bytes, undecoded", "50 or more"),
        ratio(times, "bytes / gather from memory, time", "its bytes, undecoded", "the same from memory", "3 or less"),
        ratio(times, "A / A", "f16, again", F16),
    ]
    return {"what": f"random batches of {BATCH} of {ROWS} rows, one thread", "figures": figures}


def picks(rows: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, rows, BATCH) for _ in range(BATCHES)]


def over(batches: list[np.ndarray], action: Callable) -> Callable:
    """All batches, one after the other, none of them kept."""

    def side():
        for batch in batches:
            action(batch)

    return side


def decoded(path: Path, rows: int) -> Callable:
    cache = open_cache(path)
    return over(picks(rows), lambda batch: cache.read(0, batch, ["logits"]))


def around(path: Path, stack: contextlib.ExitStack) -> dict[str, Callable]:
    """One file in all the ways that there are to read it."""
    cache, batches = open_cache(path), picks(ROWS)
    increasing = [np.unique(batch) for batch in batches]  # h5py takes nothing else
    memory = cache.records("logits", 0, range(ROWS)).copy()
    table = stack.enter_context(h5py.File(path, "r", locking=False))["knowledge/logits"]
    return {
        F16: decoded(path, ROWS),
        "f16, again": decoded(path, ROWS),
        "its bytes, undecoded": over(batches, lambda batch: cache.records("logits", 0, batch)),
        "the same from memory": over(batches, lambda batch: memory.take(batch, 0)),
        "h5py, its bytes": over(increasing, lambda batch: table[0, batch]),
    }
