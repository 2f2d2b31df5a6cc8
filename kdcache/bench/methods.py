"""Every method, cached against live: time of a step, and memory that a step keeps for its backward pass."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from pathlib import Path

import torch

from kdcache.batches import Loader, training_plan
from kdcache.bench.fixture import made_data, settled
from kdcache.bench.timing import alternate
from kdcache.cache import open_cache
from kdcache.choice import Data, DumpOptions, Student, make_dump
from kdcache.methods import METHODS
from kdcache.methods import build as build_method
from kdcache.models import build
from kdcache.models.network import Network, shapes
from kdcache.train import Settings
from kdcache.train.loop import Trainer, stages

ROWS, BATCH, ROUNDS, TEACHER, STUDENT = 256, 64, 5, "resnet20", "resnet8"


def bench_methods(progress) -> dict:
    """A row per method; methods without a teacher have no live side."""
    data = made_data(ROWS)
    network = settled(build(TEACHER, 10, data.train.mean, data.train.std), data)
    rows = [one(name, network, data, progress) for name in progress(list(METHODS), total=len(METHODS), desc="methods")]
    return {"what": f"{TEACHER} to {STUDENT}, steps of {BATCH} images of 32x32", "rows": rows, "text": table(rows)}


def one(name: str, network: Network, data: Data, progress) -> dict:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        settings = Settings(epochs=1, batch=BATCH)
        row = {"method": name, "bytes": 0}
        students = {"live": Student(data, STUDENT, name, settings, None, network, views=2)}
        if asks(name, network, data):
            with make_dump(network, data, DumpOptions(Path(folder) / "a.h5", 2, quick(name))) as dump:
                cache = open_cache(dump.run())
            row["bytes"] = sum(codec.size for codec in cache.layout.codecs.values())
            students = {
                "cached": Student(data, STUDENT, quick(name), settings, cache),
                "live": Student(data, STUDENT, quick(name), settings, cache, network),
            }
        steps = {side: stepper(student, stack) for side, student in students.items()}
        if not asks(name, network, data):
            steps = {"cached": steps["live"]}
        for side, step in steps.items():
            row[f"{side}_mb"] = kept_bytes(step) / 1e6
        for side, times in alternate(steps, ROUNDS, lambda items, **_: items, name).items():
            row[f"{side}_ms"] = 1e3 * statistics.median(times)
    return row


def asks(name: str, network: Network, data: Data) -> bool:
    """Whether a teacher is asked, who could be cached."""
    every = shapes(network, network.taps, data.image)
    method = build_method(name, every, every)
    return bool(method.taps) and method.students == 1


def quick(name: str) -> str:
    """With less training on the teacher's side: its result has no influence on the speed."""
    return f"{name}:passes=1" if name in ("ft", "mhgd") else name


def stepper(student: Student, stack: contextlib.ExitStack):
    """A training step as the trainer does it, of this student."""
    networks = [student.data.network(student.model, 0)]
    method = student.built(networks[0])
    networks += [student.data.network(student.model, i) for i in range(1, method.students)]
    view, seeds = student.data.view, student.cache.seeds if student.cache else 0
    loader = Loader(student.data.train, view, seeds)
    teacher = student.teacher(method, loader, stack)
    trainer = Trainer(networks, method, teacher, loader, 2, student.settings)
    trainer.enter(stages(method, 1)[-1])
    stack.enter_context(trainer.watching())
    plan = training_plan(len(student.data.train), 2, 1, BATCH, 0)
    turn = iter(range(1 << 30))
    return lambda: trainer.step(next(iter(loader.run([plan[next(turn) % len(plan)]]))))


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
