"""Some sample-views of each dump: a CRC of their pixels and the teacher's logits, made once and compared ever after."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
import torch.nn.functional as F

from kdcache.batches import Loader
from kdcache.cache.layout import THUMB, sampled_values
from kdcache.errors import PipelineChanged
from kdcache.on_demand import installed
from kdcache.seeds import CANARY, sample_views
from kdcache.sources.decode import PACKAGES
from kdcache.teachers import Dumped, require_finite
from kdcache.views import POLICIES, VIEWS
from kdcache.views.library import render_elsewhere

CANARIES = 64
DRAWN = [kind.packages for kind, _ in VIEWS.values()] + [policy.packages for policy in POLICIES.values()]
RECORDED = tuple(dict.fromkeys(["torch", "numpy", *PACKAGES, *(name for names in DRAWN for name in names)]))


def made(loader: Loader, teacher: Dumped, key: int, views: int) -> dict[str, np.ndarray]:
    """Some sample-views with the CRC of their pixels and the teacher's answer; refuses a view that varies."""
    n = len(loader.source)
    items = sample_views(key, CANARIES, n, views, CANARY)
    batch = loader.show(items)
    images = batch.images
    require_replay(loader, items, images)
    logits = teacher.logits(batch)
    require_finite("the teacher", {"logits": logits}, items % n)
    found = {"view": items // n, "row": items % n, "crc": pixel_crcs(images), "logits": logits.cpu().numpy()}
    found |= {"thumb": thumbs(images)} if packages(loader) else {}
    return found | ({"pixels": sampled(images)} if loader.source.packages else {})


def pixel_crcs(images: torch.Tensor) -> np.ndarray:
    return np.array([zlib.crc32(image.numpy().tobytes()) for image in images.cpu()], dtype="<u4")


def thumbs(images: torch.Tensor) -> np.ndarray:
    """Averages over an 8x8 grid: what is compared where a library's pixels may differ by a few levels."""
    return F.adaptive_avg_pool2d(images.cpu().float(), THUMB[1:]).round().to(torch.uint8).numpy()


def sampled(images: torch.Tensor) -> np.ndarray:
    """Values at even distances, uint8 [n, at most SAMPLED]: by how much they differ is told where a decoder changes."""
    flat = images.flatten(1).cpu()
    count = sampled_values(images.shape[2:])
    return flat[:, torch.arange(count) * flat.shape[1] // count].numpy()


def apart(images: torch.Tensor, canaries: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """By how many levels of 256 each of these values has moved; None where the file has none."""
    if "pixels" not in canaries:
        return None
    return np.abs(sampled(images).astype(int) - canaries["pixels"].astype(int))


def drift(images: torch.Tensor, canaries: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """By how many levels of 256 each average has moved; None where the file has none, or of another size."""
    if "thumb" not in canaries:
        return None
    return np.abs(thumbs(images).astype(int) - canaries["thumb"].astype(int))


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
    return installed(RECORDED)


def packages(loader: Loader) -> tuple[str, ...]:
    """What is installed that decodes the images or renders them; none where all of it is arithmetic of our own."""
    return (*loader.source.packages, *loader.view.plain.packages)


def decoders(libraries: Mapping[str, str], loader: Loader) -> str:
    """What decoded the files, as a header has it."""
    return ", ".join(f"{name} {libraries[name]}" for name in loader.source.packages if name in libraries)


def changed_packages(libraries: Mapping[str, str], names: Iterable[str]) -> str:
    """Which of these packages have another version than the one in a file's header."""
    now = library_versions()
    stored = {name: libraries[name] for name in dict.fromkeys(names) if name in libraries}
    return ", ".join(f"{k} {now.get(k, 'missing')} instead of {v}" for k, v in stored.items() if now.get(k) != v)
