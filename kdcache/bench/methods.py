"""Every method, cached, live and against a plain step: time, and memory that a step keeps for its backward pass."""

from __future__ import annotations

import contextlib
import inspect
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from kdcache.bench.fixture import made_data, made_teacher, stepper
from kdcache.bench.timing import alternate, figure
from kdcache.cache import open_cache
from kdcache.jobs import Data, DumpOptions, Student, make_dump, taught_by
from kdcache.methods import METHODS
from kdcache.methods import build as build_method
from kdcache.models.network import Network, shapes
from kdcache.train import Settings
from kdcache.types import quiet

ROWS, BATCH, ROUNDS, TEACHER, STUDENT = 256, 64, 5, "resnet20", "resnet20"
LIMIT = "1.05 or less"  # of a cached step of a method that reads logits alone, over a plain one


def bench_methods(progress) -> dict:
    """A row per method; methods without a teacher have no live side, and one that no cache holds has no cached one."""
    data = made_data(ROWS)
    network = made_teacher(TEACHER, data)
    with contextlib.ExitStack() as stack:
        plain = stepper(Student(data, STUDENT, "none", settings()), BATCH, stack)
        names = progress(list(METHODS), total=len(METHODS), desc="methods")
        measured = {name: one(name, network, data, plain) for name in names}
    rows = [row for row, _ in measured.values()]
    of_logits = [name for name in METHODS if METHODS[name].taps == ("logits",) and METHODS[name].views == 1]
    ratios = {name: measured[name][1] for name in of_logits if name in measured}
    slowest = max(ratios, key=lambda name: statistics.median(ratios[name]))
    found = figure(f"{slowest}, the slowest of the logits of one view, over a plain step", ratios[slowest], "", LIMIT)
    what = f"{TEACHER} to {STUDENT}, steps of {BATCH} images of 32x32"
    return {"what": what, "figures": [found], "rows": rows, "text": table(rows)}


def settings() -> Settings:
    return Settings(epochs=2, batch=BATCH)


def one(name: str, network: Network, data: Data, plain: Callable) -> tuple[dict, list[float]]:
    """A row of the table, and the times of its first side over those of a plain step, round by round."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        text, row = quick(name), {"method": name, "bytes": 0}
        reads, kept = asks(name, network, data)
        if kept:
            with make_dump(network, data, DumpOptions(Path(folder) / "a.h5", 2, text)) as dump:
                cache = open_cache(dump.run())
            row["bytes"] = sum(codec.size for codec in cache.layout.codecs.values())
            teachers = {"cached": taught_by(cache), "live": taught_by(cache, network)}
        else:
            teachers = {"live" if reads else "cached": taught_by(None, network)}
        steps = {
            side: stepper(Student(data, STUDENT, text, settings(), teacher, None if kept else 2), BATCH, stack)
            for side, teacher in teachers.items()
        }
        row["kept_mb"] = kept_bytes(next(iter(steps.values()))) / 1e6
        times = alternate({"plain": plain, **steps}, ROUNDS, quiet, name)
        row |= {f"{side}_ms": 1e3 * statistics.median(times[side]) for side in steps}
        ratios = [mine / bare for mine, bare in zip(times[next(iter(steps))], times["plain"], strict=True)]
        return row | {"over_plain": statistics.median(ratios)}, ratios


def asks(name: str, network: Network, data: Data) -> tuple[bool, bool]:
    """Whether a teacher is asked, and whether a cache can hold what it says."""
    every = shapes(network, network.taps, data.image)
    method = build_method(name, every, every)
    reads = bool(method.taps) and method.students == 1
    return reads, reads and not method.live_only


def quick(name: str) -> str:
    """With less training on the teacher's side: its result has no influence on the speed."""
    return f"{name}:passes=1" if "passes" in inspect.signature(METHODS[name]).parameters else name


def kept_bytes(step) -> int:
    """Bytes of the tensors that autograd keeps between forward and backward."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    return sum(kept.values())


def table(rows: list[dict]) -> str:
    head = (
        f"{'method':<9}{'B/row':>9}{'cached ms':>11}{'live ms':>9}{'live/cached':>13}{'over plain':>12}{'kept MB':>9}"
    )
    lines = [head]
    for row in rows:
        both = "live_ms" in row and "cached_ms" in row
        times = [f"{row[side]:.1f}" if side in row else "" for side in ("cached_ms", "live_ms")]
        times.append(f"{row['live_ms'] / row['cached_ms']:.2f}" if both else "")
        left = f"{row['method']:<9}{row['bytes']:>9}{times[0]:>11}{times[1]:>9}{times[2]:>13}"
        lines.append(f"{left}{row['over_plain']:>12.2f}{row['kept_mb']:>9.1f}")
    return "\n".join(lines)
