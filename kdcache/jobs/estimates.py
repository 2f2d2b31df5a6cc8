"""What a dump would cost, before it is begun."""

from __future__ import annotations

import contextlib
import copy
import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from kdcache.batches import Loader, straight_plan
from kdcache.codecs import asked
from kdcache.codecs.choose import kl_rows
from kdcache.dump.fitting import record_sizes
from kdcache.errors import UsageError
from kdcache.jobs.data import Data
from kdcache.jobs.like import Like
from kdcache.jobs.loading import Normalisation, load_teacher, teacher_folder
from kdcache.jobs.machine import workers_for
from kdcache.jobs.packs import decoded, estimate
from kdcache.methods import Method
from kdcache.methods import build as build_method
from kdcache.models.network import Network, check_output, shapes
from kdcache.runs import ROOT
from kdcache.teachers import Forward, LiveTeacher
from kdcache.train import Settings
from kdcache.train.optim import make_optimizer
from kdcache.types import Batch, Shapes
from kdcache.views import counted

SECONDS = 1.0  # of measuring the teacher
SETTINGS = (("f32", False), ("f32", True), ("bf16", False), ("bf16", True))  # dtype, channels last
OFFERED = ("f32", "f16", "int8", "logp8", "topk:64", "topk:16")  # codecs that a plan compares
FEW, LEAST_SECONDS = 64, 0.3  # images at once, and time, for a first impression of each of these settings


def plan(
    data: Data, path: Path, device: str, *, teacher: str, views: int | str, method: str, codec: str,
    epochs: int, students: int, batch: int, dtype: str, channels_last: bool, weights: str | None = None, root=ROOT,
    normalisation: Normalisation | None = None, taps: str | None = None, like: Like | None = None, ranks: int = 1,
) -> dict:  # fmt: skip
    """Bytes a row and in all, free space, seconds of the dump, what it saves against a live teacher, other settings.

    Without weights the teacher is built with fresh ones, which matter only to how far other settings move its answers.
    Of data that are not here, `like` says how many images there are, and `data` are what stands in for them.
    """
    known = weights or (teacher_folder(root, data.train.spec, teacher) / "last.safetensors").exists()
    if known:
        network = load_teacher(teacher, weights, data, root, normalisation, taps)
    else:
        network = data.network(teacher, 0, taps=taps)
    check_output(network, data.image)
    view, count = counted(data.view, views)
    every = shapes(network, network.taps, data.image)
    built = build_method(method, every, every)
    if not built.taps:
        raise UsageError("`method`", "a method that asks a teacher", method, "try st")
    built.require_cacheable(every, method)
    loader = Loader(data.train, view, 0, device, workers_for(data, None))  # as many as the dump will have
    n, held_out = (like.rows, like.held_out) if like else (len(data.train), len(data.held_out))
    forward = Forward(batch, dtype, channels_last)
    with LiveTeacher(network, build_method("st"), forward, device) as live:
        rate, logits = measured_rate(live, rendered(loader, batch), SECONDS)
    compared = compare_settings(network, loader, device)
    sizes = record_sizes(built, every, codec, logits)
    pack = estimate(data.train, workers_for(data, None)) if decoded(data.train) else None
    shown = epochs * students * built.views  # views of each image, in all trainings
    dump, looped = count * n / (rate * ranks), shown * n / (rate * ranks)
    folder = path.absolute().parent
    return {
        "rows": n,
        "views": count,
        "bytes_per_row": sizes,
        "seed_bytes_per_row": 8,
        "bytes": file_bytes(sizes, n, count, held_out),
        "codecs": other_codecs(built, every, codec, logits, lambda sizes: file_bytes(sizes, n, count, held_out)),
        "free_bytes": shutil.disk_usage(folder).free if folder.is_dir() else None,
        "held_bytes": built.held(n),
        "teacher_images_per_second": rate,
        "trained": bool(known),
        "forward": compared,
        "ranks": ranks,
        "dump_seconds": dump,
        "live_seconds": looped,
        "saved_seconds": looped - dump,
        "pack": pack and pack_of_both(pack, held_out / n) | {"saved_seconds": (count + shown) * pack["decode_seconds"]},
    }


def pack_of_both(pack: dict, more: float) -> dict:
    """With the evaluation images, of which there are so many for each training image."""
    return pack | {"bytes": round(pack["bytes"] * (1 + more))}


def other_codecs(
    method: Method, shapes: Shapes, codec: str, logits: torch.Tensor, whole: Callable[[Mapping[str, int]], int]
) -> list[dict]:
    """Of each codec that these logits can have: bytes of a record of them, and of the whole file."""
    rows, emb = [], asked(codec).get("emb")
    for name in OFFERED if "logits" in method.stores(shapes) else ():
        with contextlib.suppress(UsageError):  # one that the method cannot use, or more classes than there are
            sizes = record_sizes(method, shapes, f"{name},emb={emb}" if emb else name, logits)
            rows.append({"codec": name, "bytes_per_row": sizes["logits"], "bytes": whole(sizes)})
    return rows


def file_bytes(sizes: Mapping[str, int], rows: int, views: int, held_out: int) -> int:
    """Of a cache with records of these sizes: each with a seed of 8 bytes, each row with a label and a digest."""
    row = sum(sizes.values())
    return views * rows * (row + 8) + held_out * row + 12 * rows


def answering_rate(network: Network, loader: Loader, forward: Forward) -> float:
    """Images a second through a teacher, from few of them."""
    batch = next(iter(loader.run(straight_plan(range(min(FEW // 2, len(loader.source))), FEW))))
    with LiveTeacher(network, build_method("st"), forward, str(loader.device)) as live:
        return measured_rate(live, itertools.repeat(batch), LEAST_SECONDS)[0]


def rendering_rate(loader: Loader) -> float:
    """Images a second that one process reads and renders."""
    started, images = time.perf_counter(), 0
    for batch in itertools.islice(rendered(loader, min(FEW, len(loader.source))), 4):
        images += len(batch)
    return images / (time.perf_counter() - started)


def training_rate(network: Network, settings: Settings, image: tuple[int, int, int], device: str) -> float:
    """Images a second of a training with cross-entropy alone, from a few steps; on a CPU, of few images each."""
    images = settings.batch if device != "cpu" else min(settings.batch, FEW // 4)
    blank = torch.zeros((images, *image), dtype=torch.uint8, device=device)
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    network, blank = network.to(device).to(memory_format=layout).train(), blank.contiguous(memory_format=layout)
    optimizer = make_optimizer(network.parameters(), settings)
    labels = torch.zeros(images, dtype=torch.int64, device=device)

    def step() -> float:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=settings.dtype == "bf16"):
            loss = cross_entropy(network(blank).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())  # waits for the device

    step()  # the first pays for set-up
    steps, started = 0, time.perf_counter()
    while not steps or time.perf_counter() - started < LEAST_SECONDS:
        step()
        steps += 1
    return steps * images / (time.perf_counter() - started)


def rendered(loader: Loader, batch: int) -> Iterator[Batch]:
    """Full batches of the first images, again and again."""
    order = straight_plan(range(min(len(loader.source), 16 * batch)), batch)
    return loader.run(itertools.cycle([items for items in order if len(items) == len(order[0])]))


def measured_rate(teacher: LiveTeacher, batches: Iterator[Batch], seconds: float) -> tuple[float, torch.Tensor]:
    """Images a second through the teacher on this machine, and the logits of some of them."""
    logits = [teacher.logits(next(batches)).cpu()]  # the first call pays for set-up
    images, started = 0, time.perf_counter()
    for batch in batches:
        logits.append(teacher.logits(batch).cpu())
        images += len(batch)
        if (spent := time.perf_counter() - started) > seconds:
            break
    return images / spent, torch.cat(logits)[:4096]


def plain_copy(network: Network) -> Network:
    """Of the weights in the usual layout: a teacher puts them into its own."""
    return copy.deepcopy(network).to(memory_format=torch.contiguous_format)


def compare_settings(network: Network, loader: Loader, device: str) -> list[dict]:
    """Of each dtype and memory layout: images a second here, and how far its answers are from those in f32."""
    batch = next(iter(loader.run(straight_plan(range(min(FEW, len(loader.source))), FEW))))
    rows, truth = [], None
    for dtype, channels_last in SETTINGS:
        forward = Forward(FEW, dtype, channels_last)
        with LiveTeacher(plain_copy(network), build_method("st"), forward, device) as live:
            rate, logits = measured_rate(live, itertools.repeat(batch), LEAST_SECONDS)
        logits = logits[: len(batch)]  # it was shown again and again
        truth = logits if truth is None else truth
        kl = {t: float(kl_rows(truth, logits, t).mean()) for t in (1, 4)}
        flips = int((truth.argmax(1) != logits.argmax(1)).sum())
        facts = {"dtype": dtype, "channels_last": channels_last, "images_per_second": rate, "kl": kl, "flips": flips}
        rows.append(facts | {"images": len(batch)})
    return rows
