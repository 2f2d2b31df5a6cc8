"""A step from the cache, against a plain step of the same student on the same pixels."""

from __future__ import annotations

import tempfile
from pathlib import Path

from kdcache.batches import Loader, training_plan
from kdcache.bench.fixture import made_data, settled
from kdcache.bench.timing import alternate, median_rate, ratio
from kdcache.cache import Cache, open_cache
from kdcache.choice import Data, DumpOptions, make_dump
from kdcache.methods import build as build_method
from kdcache.models import build
from kdcache.teachers import CacheTeacher, no_teacher
from kdcache.train import Settings
from kdcache.train.loop import Trainer, stages

ROWS, BATCH, STUDENTS = 1024, 128, ("resnet8", "resnet20")


def bench_train(progress) -> dict:
    """Steps of a plain student and of one that learns from a cache, in turn."""
    data = made_data(ROWS)
    rates, ratios = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        network = settled(build("resnet8", 10, data.train.mean, data.train.std), data)
        with make_dump(network, data, DumpOptions(Path(folder) / "a.h5", 2)) as dump:
            cache = open_cache(dump.run())
        for student in STUDENTS:
            sides = {
                f"{student} plain": stepper(student, "none", data, cache),
                f"{student} st, cached": stepper(student, "st", data, cache),
                f"{student} plain, again": stepper(student, "none", data, cache),
            }
            times = alternate(sides, 40 if student == "resnet8" else 16, progress, student)
            rates |= {name: median_rate(values, BATCH) for name, values in times.items()}
            plain = f"{student} plain"
            ratios[f"{student} cached / plain"] = (ratio(times, f"{student} st, cached", plain), "1.05 or less")
            ratios[f"{student} A / A"] = (ratio(times, f"{student} plain, again", plain), "the noise")
    what = f"steps of {BATCH} synthetic 32x32 images, from rows to updated weights"
    return {"what": what, "unit": "images/s", "rates": rates, "ratios": ratios}


def stepper(model: str, method: str, data: Data, cache: Cache):
    """A function that does one training step with all that belongs to it."""
    network = build(model, 10, data.train.mean, data.train.std)
    teacher = CacheTeacher(cache, ["logits"]) if method == "st" else no_teacher
    loader = Loader(data.train, data.view, cache.seeds)
    trainer = Trainer([network], build_method(method), teacher, loader, cache.views, Settings())
    trainer.enter(stages(trainer.method, 1)[0])
    watching = trainer.watching()
    watching.__enter__()
    plan = training_plan(ROWS, cache.views, 1, BATCH, 0)
    place = iter(range(1 << 30))

    def step():
        batch = next(iter(loader.run([plan[next(place) % len(plan)]])))
        return trainer.step(batch)

    step.watching = watching  # keeps the hooks as long as the function
    return step
