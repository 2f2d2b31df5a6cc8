"""A step from the cache, against a plain step of the same student on the same pixels."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from kdcache.bench.fixture import made_data, made_teacher, stepper
from kdcache.bench.timing import alternate, rate, ratio
from kdcache.cache import open_cache
from kdcache.jobs import DumpOptions, Student, make_dump, taught_by
from kdcache.train import Settings

ROWS, BATCH = 1024, 128
STUDENTS = {"resnet8": 60, "resnet20": 30}  # with the rounds of each


def bench_train(progress) -> dict:
    """Steps of a plain student and of one that learns from a cache, in turn."""
    data, figures = made_data(ROWS), []
    with tempfile.TemporaryDirectory() as folder:
        with make_dump(made_teacher("resnet8", data), data, DumpOptions(Path(folder) / "a.h5", 2)) as dump:
            cache = open_cache(dump.run())
        for model, rounds in STUDENTS.items():
            with contextlib.ExitStack() as stack:

                def step(method: str, model=model, stack=stack):
                    return stepper(Student(data, model, method, Settings(), taught_by(cache)), BATCH, stack)

                sides = {"plain": step("none"), "st, cached": step("st"), "plain, again": step("none")}
                times = alternate(sides, rounds, progress, model)
            figures += [rate(times, f"{model}, {side}", side, BATCH, "images/s") for side in ("plain", "st, cached")]
            figures.append(ratio(times, f"{model}, cached / plain, time", "st, cached", "plain", "1.02 or less"))
            figures.append(ratio(times, f"{model}, A / A", "plain, again", "plain"))
    what = f"steps of {BATCH} synthetic 32x32 images, from rows to updated weights"
    return {"what": what, "figures": figures}
