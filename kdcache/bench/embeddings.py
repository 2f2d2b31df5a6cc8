"""What a codec of the embedding does to the losses of the methods that read it, and to their gradients."""

from __future__ import annotations

import math
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcache.bench.fixture import made_data, made_teacher
from kdcache.cache import Cache, open_cache
from kdcache.codecs import named
from kdcache.errors import CacheError
from kdcache.jobs import DumpOptions, make_dump
from kdcache.methods import METHODS, Method, build
from kdcache.report.table import columns
from kdcache.seeds import PROBE, permutation, sample_views
from kdcache.types import Batch

ROWS, BATCH, BATCHES, TEACHER, CLASSES = 512, 64, 8, "resnet20", 10
CODECS = ("f16", "int8")
MAP = 2  # pixels along a side of what stands for the student's map


def bench_embeddings(progress, cache: str | None = None) -> dict:
    """A row for each method and codec: by how much of itself the loss, and the gradient, is another one."""
    with tempfile.TemporaryDirectory() as folder:
        opened = open_cache(cache or made(Path(folder) / "a.h5"))
        theirs = sample(opened)
    width = theirs.shape[1]
    names = [name for name, method in METHODS.items() if "emb" in method.taps and not method.live_only]
    rows = [
        {"codec": codec, "bytes": named(codec, theirs).size, "method": name} | errors(name, theirs, codec)
        for name in progress(names, total=len(names), desc="methods")
        for codec in CODECS
    ]
    what = f"{len(theirs)} embeddings of {width} numbers of {cache or 'an untrained ' + TEACHER}, in batches of {BATCH}"
    return {"what": what, "rows": rows, "text": page(rows)}


def made(path: Path) -> Path:
    data = made_data(ROWS, CLASSES)
    with make_dump(made_teacher(TEACHER, data), data, DumpOptions(path, 1, "feat", codec="f32")) as dump:
        return dump.run()


def sample(cache: Cache) -> Tensor:
    """The embeddings of keyed rows over all views, all of them where there are few."""
    if "emb" not in cache.names:
        remedy = "dump with a method such as feat, best with `codec` f32"
        raise CacheError(cache.path, "embeddings in it", ", ".join(cache.names), remedy)
    whole, most = len(cache) * cache.views, BATCH * BATCHES
    items = np.arange(whole) if whole <= most else sample_views(0, most, len(cache), cache.views, PROBE)
    views, rows = np.divmod(items, len(cache))
    found = cache.read(views, rows, ["emb"])["emb"].flatten(1)
    return found[permutation(len(found), 0)]  # rows of a class may lie together


def errors(name: str, theirs: Tensor, codec: str) -> dict:
    """Of a student half way: its embedding is the mean of the teacher's and of noise of the same size."""
    generator = torch.Generator().manual_seed(0)
    width, found = theirs.shape[1], []
    shapes = {"logits": (CLASSES,), "emb": (width,), "f3.post": (width, MAP, MAP)}
    method = build(name, shapes, shapes).double()
    layer = torch.randn(CLASSES, width, generator=generator) / math.sqrt(width)
    method.use({"srrl.weight": layer})
    method.meet(torch.arange(len(theirs)) % CLASSES)
    kept = named(codec, theirs)
    for start in range(0, len(theirs) - 1, BATCH):
        exact = theirs[start : start + BATCH]
        noise = theirs.std() * torch.randn(exact.shape, generator=generator)
        mine = (exact + noise) / 2
        value, gradient = loss_and_gradient(method, mine, exact, start)
        other, changed = loss_and_gradient(method, mine, kept.decode(kept.encode(exact)), start)
        found.append((abs(other / value - 1), float((changed - gradient).norm() / gradient.norm())))
    values, gradients = zip(*found, strict=True)
    return {"loss": statistics.median(values), "gradient": statistics.median(gradients)}


def loss_and_gradient(method: Method, mine: Tensor, theirs: Tensor, start: int) -> tuple[float, Tensor]:
    """Without cross-entropy; the gradient is that of the student's embedding."""
    mine, theirs = mine.double().requires_grad_(), theirs.double()
    rows = torch.arange(start, start + len(mine))
    logits = torch.zeros(len(mine), CLASSES, dtype=mine.dtype)
    look = {"logits": logits, "emb": mine, "f3.post": mine[:, :, None, None].expand(-1, -1, MAP, MAP)}
    batch = Batch(torch.empty(len(mine)), rows % CLASSES, rows.numpy(), 1 << 30)
    value = sum(method.terms(look, {"logits": logits, "emb": theirs}, batch).values())
    return value.item(), torch.autograd.grad(value, mine)[0]


def page(rows: list[dict]) -> str:
    head = ["method", *(f"{what}, {codec}" for codec in CODECS for what in ("loss", "gradient"))]
    by_method: dict[str, list[str]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).extend(f"{row[what]:.1e}" for what in ("loss", "gradient"))
    sizes = ", ".join(f"{codec} {row['bytes']} bytes" for codec, row in zip(CODECS, rows, strict=False))
    return (
        columns([head, *([name, *cells] for name, cells in by_method.items())], set(range(1, len(head)))) + f"\n{sizes}"
    )
