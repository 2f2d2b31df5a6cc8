"""A dump, against the bare forward of its teacher on pixels that lie ready."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from kdcache.batches import straight_plan
from kdcache.bench.fixture import made_data, made_teacher
from kdcache.bench.timing import alternate, rate, ratio
from kdcache.cache import Writer
from kdcache.dump import Dump
from kdcache.durable import part_of
from kdcache.jobs import DumpOptions, choose_device, make_dump
from kdcache.teachers import Forward

ROWS, BATCH, MODEL = 256, 256, "resnet110"
SETTINGS = {  # with the rounds of each
    "f32": (Forward(BATCH), 7),
    "bf16, channels last": (Forward(BATCH, "bf16", channels_last=True), 9),
}


def bench_dump(progress) -> dict:
    """Images a second through render, forward, encode, checksum, write and sync."""
    data, device, figures = made_data(ROWS), choose_device(None), []
    for name, (forward, rounds) in SETTINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            options = DumpOptions(Path(folder) / "a.h5", 1, forward=forward, device=device)
            with make_dump(made_teacher(MODEL, data), data, options) as dump:
                times = alternating(dump, rounds, progress, f"dump {name}")
        figures += [rate(times, f"{name}, {side}", side, ROWS, "images/s") for side in ("forward", "dump")]
        figures.append(ratio(times, f"{name}, forward / dump, time", "forward", "dump", "0.95 or more"))
        figures.append(ratio(times, f"{name}, A / A", "forward, again", "forward"))
    return {"what": f"{ROWS} synthetic 32x32 images through {MODEL}, batches of {BATCH}", "figures": figures}


def alternating(dump: Dump, rounds: int, progress, desc: str) -> dict[str, list[float]]:
    dump.held_out = None
    ready = [batch.images for batch in dump.loader.run(straight_plan(range(ROWS), BATCH))]
    dump.begin()
    empty = part_of(dump.path).read_bytes()
    spent: list[float] = []

    def forward():
        for images in ready:
            dump.teacher.looks(images)

    def fill():
        part_of(dump.path).write_bytes(empty)
        with Writer(dump.path) as writer:
            started = time.perf_counter()
            dump.fill(writer)
            spent.append(time.perf_counter() - started)

    times = alternate({"forward": forward, "dump": fill, "forward, again": forward}, rounds, progress, desc)
    return times | {"dump": spent[1:]}  # without the emptying; the first was for warming up
