"""Every method, cached against live: time of a step, and memory that a step keeps for its backward pass."""

from __future__ import annotations

import contextlib
import inspect
import statistics
import tempfile
from pathlib import Path

import torch

from kdcache.bench.fixture import made_data, made_teacher, stepper
from kdcache.bench.timing import alternate
from kdcache.cache import open_cache
from kdcache.jobs import Data, DumpOptions, Student, make_dump, taught_by
from kdcache.methods import METHODS
from kdcache.methods import build as build_method
from kdcache.models.network import Network, shapes
from kdcache.train import Settings
from kdcache.types import quiet

ROWS, BATCH, ROUNDS, TEACHER, STUDENT = 256, 64, 5, "resnet20", "resnet8"


def bench_methods(progress) -> dict:
    """A row per method; methods without a teacher have no live side."""
    data = made_data(ROWS)
    network = made_teacher(TEACHER, data)
    rows = [one(name, network, data, progress) for name in progress(list(METHODS), total=len(METHODS), desc="methods")]
    return {"what": f"{TEACHER} to {STUDENT}, steps of {BATCH} images of 32x32", "rows": rows, "text": table(rows)}


def one(name: str, network: Network, data: Data, progress) -> dict:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        settings = Settings(epochs=2, batch=BATCH)
        row = {"method": name, "bytes": 0}
        students = {"live": Student(data, STUDENT, name, settings, taught_by(None, network), 2)}
        if asks(name, network, data):
            with make_dump(network, data, DumpOptions(Path(folder) / "a.h5", 2, quick(name))) as dump:
                cache = open_cache(dump.run())
            row["bytes"] = sum(codec.size for codec in cache.layout.codecs.values())
            students = {
                "cached": Student(data, STUDENT, quick(name), settings, taught_by(cache)),
                "live": Student(data, STUDENT, quick(name), settings, taught_by(cache, network)),
            }
        steps = {side: stepper(student, BATCH, stack) for side, student in students.items()}
        if not asks(name, network, data):
            steps = {"cached": steps["live"]}
        for side, step in steps.items():
            row[f"{side}_mb"] = kept_bytes(step) / 1e6
        for side, times in alternate(steps, ROUNDS, quiet, name).items():
            row[f"{side}_ms"] = 1e3 * statistics.median(times)
    return row


def asks(name: str, network: Network, data: Data) -> bool:
    """Whether a teacher is asked, who could be cached."""
    every = shapes(network, network.taps, data.image)
    method = build_method(name, every, every)
    return bool(method.taps) and method.students == 1 and not method.live_only


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
    lines = [f"{'method':<8}{'B/row':>9}{'cached ms':>11}{'live ms':>9}{'live/cached':>13}{'kept MB':>9}"]
    for row in rows:
        live = f"{row['live_ms']:>9.1f}{row['live_ms'] / row['cached_ms']:>13.2f}" if "live_ms" in row else " " * 22
        lines.append(f"{row['method']:<8}{row['bytes']:>9}{row['cached_ms']:>11.1f}{live}{row['cached_mb']:>9.1f}")
    return "\n".join(lines)
