"""Speed on this machine: paired, alternating runs, each figure beside what it is held against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

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
LARGE = {"scale"}  # not part of `all`

__all__ = ["BENCHES", "LARGE", "run", "text"]


def run(what: str, given: Iterable[tuple[str, str, object]], progress=quiet) -> Iterator[tuple[str, dict]]:
    """The name of a bench and what it measured, of one or of `all`; options are given as (bench, name, value)."""
    for name in [name for name in BENCHES if name not in LARGE] if what == "all" else [what]:
        yield name, BENCHES[name](progress, **{option: value for bench, option, value in given if bench == name})
