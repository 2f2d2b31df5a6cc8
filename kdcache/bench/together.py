"""An epoch of several students in one pipeline, against an epoch of one of them, on photographs that are decoded."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from kdcache.bench.timing import alternate, rate, ratio
from kdcache.bench.workers import known_answers, made_photographs
from kdcache.jobs import Data, Student, pipeline, taught_by
from kdcache.train import Course, Settings
from kdcache.train.loop import learn
from kdcache.types import quiet

FILES, SIDE = 320, 432  # as many pixels as a photograph of ImageNet has
MODEL, VIEW, BATCH, WORKERS, ROUNDS = "tiny-2", "resized-crop:64", 64, 2, 9
METHODS = [f"st:T={T}" for T in range(1, 9)]


def bench_together(progress) -> dict:
    """What further students cost where decoding binds."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data = Data.open(f"folder:{made_photographs(folder / 'images', FILES, SIDE)}", VIEW)
        teacher = taught_by(known_answers(folder / "a.h5", data))
        students = [
            Student(data, MODEL, method, Settings(epochs=2, batch=BATCH), teacher, workers=WORKERS)
            for method in METHODS
        ]
        one, several = (epoch_of(some, stack) for some in (students[:1], students))
        sides = {"one": one, "several": several, "one, again": one}
        times = alternate(sides, ROUNDS, progress, "together")
    count = len(METHODS)
    figures = [rate(times, "one student", "one", FILES, "images/s")]
    figures.append(rate(times, f"{count} students, each", "several", FILES, "images/s"))
    figures.append(ratio(times, f"{count} students / one, time", "several", "one", "2 or less"))
    figures.append(ratio(times, "A / A", "one, again", "one"))
    what = f"epochs of {FILES} JPEGs of {SIDE}x{SIDE}, {VIEW}, {WORKERS} workers, students {MODEL} of one cache"
    return {"what": what, "figures": figures}


def epoch_of(students: Sequence[Student], stack: contextlib.ExitStack) -> Callable[[], None]:
    """The same epoch of these students in one pipeline, again and again."""
    trainers, feed, _ = stack.enter_context(pipeline.ready(students))
    for trainer in trainers:
        stack.enter_context(trainer.watching())
    return lambda: learn([Course(trainer) for trainer in trainers], feed, 1, quiet)
