"""Speed on this machine: paired, alternating runs, each figure beside what it is held against."""

from __future__ import annotations

from collections.abc import Callable

from kdcache.bench.dump import bench_dump
from kdcache.bench.methods import bench_methods
from kdcache.bench.read import bench_read
from kdcache.bench.timing import text
from kdcache.bench.train import bench_train

BENCHES: dict[str, Callable] = {
    "read": bench_read,
    "dump": bench_dump,
    "train": bench_train,
    "methods": bench_methods,
}

__all__ = ["BENCHES", "text"]
