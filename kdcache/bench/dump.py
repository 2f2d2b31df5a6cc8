"""A dump, against the bare forward of its teacher on pixels that lie ready."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from kdcache.batches import straight_plan
from kdcache.bench.fixture import made_data, settled
from kdcache.bench.timing import alternate, median_rate, ratio
from kdcache.cache import Writer
from kdcache.cache.layout import part_of
from kdcache.choice import DumpOptions, make_dump
from kdcache.dist import Ranks
from kdcache.models import build

ROWS, MODEL, ROUNDS = 1024, "resnet20", 7


def bench_dump(progress) -> dict:
    """Images a second through render, forward, encode, checksum, write and sync."""
    data = made_data(ROWS)
    network = settled(build(MODEL, 10, data.train.mean, data.train.std), data)
    with (
        tempfile.TemporaryDirectory() as folder,
        make_dump(network, data, DumpOptions(Path(folder) / "a.h5", 1)) as dump,
    ):
        dump.held_out = None
        ready = [batch.images for batch in dump.loader.run(straight_plan(range(ROWS), 256))]

        def forward():
            for images in ready:
                dump.teacher.looks(images)

        def fill():
            part_of(dump.path).unlink(missing_ok=True)
            dump.begin()
            writer = Writer(dump.path)
            started = time.perf_counter()
            dump.fill(writer, Ranks())
            spent.append(time.perf_counter() - started)
            writer.close()

        spent: list[float] = []
        times = alternate({"forward": forward, "dump": fill, "forward, again": forward}, ROUNDS, progress, "dump")
    times["dump"] = spent[1:]  # without begin(), which is paid once; the first was for warming up
    return {
        "what": f"{ROWS} synthetic 32x32 images through {MODEL}, f32, batches of 256",
        "unit": "images/s",
        "rates": {name: median_rate(values, ROWS) for name, values in times.items()},
        "ratios": {
            "forward / dump, time": (ratio(times, "forward", "dump"), "0.90 or more"),
            "A / A": (ratio(times, "forward, again", "forward"), "the noise"),
        },
    }
