"""What memory layout, bf16 and the compiler do for a training step: measured, since it differs between machines."""

from __future__ import annotations

import contextlib

from kdcache.bench.fixture import made_data, stepper
from kdcache.bench.timing import alternate, rate, ratio
from kdcache.jobs import Student
from kdcache.train import Settings

ROWS, BATCH, MODEL, ROUNDS = 1024, 128, "resnet20", 15
SETTINGS: dict[str, dict] = {
    "f32": {},
    "f32, again": {},
    "--channels-last": {"channels_last": True},
    "--dtype bf16": {"dtype": "bf16"},
    "--dtype bf16 --channels-last": {"dtype": "bf16", "channels_last": True},
    "--compile": {"compile": True},
    "--compile --dtype bf16 --channels-last": {"compile": True, "dtype": "bf16", "channels_last": True},
}


def bench_settings(progress) -> dict:
    """Steps of a plain student in every setting, in turn."""
    data = made_data(ROWS)
    with contextlib.ExitStack() as stack:
        sides = {
            name: stepper(Student(data, MODEL, "none", Settings(**given), device="cpu"), BATCH, stack)
            for name, given in SETTINGS.items()
        }
        times = alternate(sides, ROUNDS, progress, MODEL)
    figures = [rate(times, name, name, BATCH, "images/s") for name in SETTINGS if name != "f32, again"]
    others = [name for name in SETTINGS if not name.startswith("f32")]
    figures += [ratio(times, f"{name} / f32, time", name, "f32", "") for name in others]
    figures.append(ratio(times, "A / A", "f32, again", "f32"))
    return {"what": f"steps of {BATCH} synthetic 32x32 images, {MODEL}, options of train-student", "figures": figures}
