"""Some sample-views of each dump: their pixels and the teacher's answers, kept to be compared ever after."""

from __future__ import annotations

import importlib.metadata
import zlib

import numpy as np
import torch
import torch.nn.functional as F

from kdcache.batches import Loader
from kdcache.cache.layout import THUMB
from kdcache.errors import PipelineChanged
from kdcache.seeds import CANARY, sample_views
from kdcache.teachers import LiveTeacher, require_finite
from kdcache.teachers.known import KnownTeacher
from kdcache.views import VIEWS, View
from kdcache.views.library import render_elsewhere

CANARIES = 64
RECORDED = ("torch", "numpy", "pillow", *dict.fromkeys(name for kind, _ in VIEWS.values() for name in kind.packages))


def made(loader: Loader, teacher: LiveTeacher | KnownTeacher, key: int, views: int) -> dict[str, np.ndarray]:
    """Some sample-views with the CRC of their pixels and the teacher's answer; refuses a view that varies."""
    n = len(loader.source)
    items = sample_views(key, CANARIES, n, views, CANARY)
    batch = loader.show(items)
    images = batch.images
    require_replay(loader, items, images)
    looks = teacher.show(batch)
    require_finite("the teacher", looks, items % n)
    found = {
        "view": items // n,
        "row": items % n,
        "crc": pixel_crcs(images),
        "logits": looks["logits"].cpu().numpy() if "logits" in looks else None,
        "thumb": None if loader.view.native else thumbs(images),
    }
    return {name: value for name, value in found.items() if value is not None}


def pixel_crcs(images: torch.Tensor) -> np.ndarray:
    return np.array([zlib.crc32(image.numpy().tobytes()) for image in images.cpu()], dtype="<u4")


def thumbs(images: torch.Tensor) -> np.ndarray:
    """Averages over an 8x8 grid: what is compared where a library's pixels may differ by a few bits between CPUs."""
    return F.adaptive_avg_pool2d(images.cpu().float(), THUMB[1:]).round().to(torch.uint8).numpy()


def require_replay(loader: Loader, items: np.ndarray, images: torch.Tensor) -> None:
    """Renders again, for library views also in a fresh process."""
    pairs = [(images, loader.images(items))]
    if not loader.view.native:
        library = loader.view.plain
        n, few = len(loader.source), items[:4]
        given = loader.source.read(few % n), torch.from_numpy(loader.seeds.seeds_of(few))
        pairs.append((library.render(*given), render_elsewhere(library, *given)))
    for first, second in pairs:
        if not torch.equal(first.cpu(), second.cpu()):
            found = "other pixels the second time"
            remedy = "leave out what draws from a generator of its own, such as elastic noise without a seed"
            raise PipelineChanged(f"view {loader.view.name}", "a rendering that replays", found, remedy)


def library_versions() -> dict[str, str]:
    found = {}
    for name in RECORDED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def changed_libraries(meta: dict, view: View) -> str:
    """What a view's pixels depend on and has another version than when a file was begun."""
    now = library_versions()
    stored = {k: v for k, v in meta["libraries"].items() if k in ("pillow", *view.plain.packages)}
    return ", ".join(f"{k} {now.get(k, 'missing')} instead of {v}" for k, v in stored.items() if now.get(k) != v)
