"""Speed on this machine: paired, alternating runs, each figure beside what it is held against."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from kdcache.bench.codecs import bench_codecs
from kdcache.bench.dump import bench_dump
from kdcache.bench.embeddings import bench_embeddings
from kdcache.bench.live import bench_live
from kdcache.bench.methods import bench_methods
from kdcache.bench.pack import bench_pack
from kdcache.bench.read import bench_read
from kdcache.bench.replay import bench_replay
from kdcache.bench.scale import bench_scale
from kdcache.bench.settings import bench_settings
from kdcache.bench.timing import text
from kdcache.bench.together import bench_together
from kdcache.bench.train import bench_train
from kdcache.bench.workers import bench_workers
from kdcache.types import quiet

BENCHES: dict[str, Callable] = {
    "read": bench_read,
    "replay": bench_replay,
    "dump": bench_dump,
    "train": bench_train,
    "live": bench_live,
    "settings": bench_settings,
    "workers": bench_workers,
    "pack": bench_pack,
    "together": bench_together,
    "methods": bench_methods,
    "codecs": bench_codecs,
    "embeddings": bench_embeddings,
    "scale": bench_scale,
}

__all__ = ["BENCHES", "measured", "run", "text"]


def run(what: str, given: Iterable[tuple[str, str, object]], progress=quiet) -> Iterator[tuple[str, dict]]:
    """The name of a bench and what it measured, of one or of `all`; options are given as (bench, name, value)."""
    for name in BENCHES if what == "all" else [what]:
        bench = partial(BENCHES[name], progress, **{option: value for bench, option, value in given if bench == name})
        yield name, measured(bench) if what == "all" else bench()


def measured(bench: Callable[[], dict]) -> dict:
    """What a bench found, and the seconds that it took; one that fails does not keep others from being measured."""
    started = time.perf_counter()
    try:
        found = bench()
    except Exception as error:
        found = {"what": "", "failed": f"{type(error).__name__}: {error}"}
    return found | {"seconds": time.perf_counter() - started}
