"""What a cache saves: a step with the teacher in the loop, against the same step from the cache."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from kdcache.bench.fixture import made_data, made_teacher, stepper
from kdcache.bench.timing import alternate, figure, rate, ratio
from kdcache.cache import open_cache
from kdcache.jobs import DumpOptions, Student, choose_device, make_dump, taught_by
from kdcache.methods import build
from kdcache.teachers import Forward, LiveTeacher
from kdcache.train import Settings

ROWS, BATCH, TEACHER = 128, 64, "resnet110"
STUDENTS = {"resnet8": 15, "resnet20": 11}  # with the rounds of each


def bench_live(progress) -> dict:
    """The ideal is what would be saved if knowledge came for nothing: (teacher's forward + plain step) / plain step."""
    data, figures = made_data(ROWS), []
    network = made_teacher(TEACHER, data)
    with tempfile.TemporaryDirectory() as folder:
        with make_dump(network, data, DumpOptions(Path(folder) / "a.h5", 2)) as dump:
            cache = open_cache(dump.run())
        for model, rounds in STUDENTS.items():
            with contextlib.ExitStack() as stack:

                def step(method: str, live=None, model=model, stack=stack):
                    return stepper(Student(data, model, method, Settings(), taught_by(cache, live)), BATCH, stack)

                sides = {"plain": step("none"), "cached": step("st"), "live": step("st", network)}
                sides |= {"cached, again": step("st"), "forward": forward(network, data, stack)}
                figures += compared(model, alternate(sides, rounds, progress, model))
    return {"what": f"steps of {BATCH} synthetic 32x32 images, st, {TEACHER} as the teacher", "figures": figures}


def forward(network, data, stack: contextlib.ExitStack):
    """The teacher's forward alone, on a batch that lies ready."""
    device = choose_device(None)
    teacher = stack.enter_context(LiveTeacher(network, build("st"), Forward(), device))
    images = data.train.read(range(BATCH)).to(device)
    return lambda: teacher.looks(images)


def compared(model: str, times: dict[str, list[float]]) -> list[dict]:
    ideal = [(t + s) / s for t, s in zip(times["forward"], times["plain"], strict=True)]
    saved = [a / b for a, b in zip(times["live"], times["cached"], strict=True)]
    reached = [a / b for a, b in zip(saved, ideal, strict=True)]
    return [
        *(rate(times, f"{model}, {side}", side, BATCH, "images/s") for side in ("live", "cached")),
        figure(f"{model}, live / cached, time", saved, "", f"{figure('', ideal, '')['median']:.3f}, the ideal"),
        figure(f"{model}, of the ideal", reached, "", "0.95 or more"),
        ratio(times, f"{model}, A / A", "cached, again", "cached"),
    ]
