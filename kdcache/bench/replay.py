"""Views of our own, against the same pipelines in a library, and against a mere copy of what comes out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from kdcache.bench.timing import alternate, rate, ratio
from kdcache.views import open_view, seeds_of
from kdcache.views.albumentations import Albumentations
from kdcache.views.pipeline import one_thread

ROUNDS = 15
CASES = (  # view, side of the images, images in a batch, bars
    ("crop-flip", 32, 256, "150 thousand or more", "10 or more"),
    ("crop-flip-cutout", 32, 256, "", "5 or more"),
    ("resized-crop:32", 64, 256, "", "5 or more"),
    ("resized-crop:224", 256, 32, "", "2 or more"),
)


def bench_replay(progress) -> dict:
    """Images a second from seeds to pixels, in one thread."""
    with one_thread():
        figures = [one for case in CASES for one in compared(*case, progress)]
    return {"what": "seeds and uint8 images to rendered batches, one thread", "figures": figures}


def compared(spec: str, side: int, batch: int, least: str, least_ratio: str, progress) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)
    view = open_view(spec, (side, side)).plain
    seeds = torch.from_numpy(seeds_of(view, 0, 0, np.arange(batch)))
    library = Albumentations(view.size, pipeline(spec, view.size), (side, side))
    rendered = view.render(images, seeds)
    copy = torch.empty_like(rendered)
    sides: dict[str, Callable] = {
        "ours": lambda: view.render(images, seeds),
        "ours, again": lambda: view.render(images, seeds),
        "albumentations": lambda: library.render(images, seeds),
        "memcpy": lambda: copy.copy_(rendered),
    }
    times = alternate(sides, ROUNDS, progress, spec)
    name = f"{spec} of {side}x{side}"
    return [
        rate(times, f"{name}, ours", "ours", batch, "images/s", least),
        rate(times, f"{name}, albumentations", "albumentations", batch, "images/s"),
        rate(times, f"{name}, memcpy of the output", "memcpy", batch, "images/s"),
        ratio(times, f"{name}, albumentations / ours, time", "albumentations", "ours", least_ratio),
        ratio(times, f"{name}, A / A", "ours, again", "ours"),
    ]


def pipeline(spec: str, size: tuple[int, int]) -> dict:
    """The same in albumentations, as a user saves it."""
    import albumentations as A

    height, width = size
    if spec.startswith("resized-crop"):
        steps = [A.RandomResizedCrop(size), A.HorizontalFlip()]
    else:
        steps = [A.PadIfNeeded(height + 8, width + 8, border_mode=0), A.RandomCrop(*size), A.HorizontalFlip()]
    if spec.endswith("cutout"):
        square = {"hole_height_range": (16, 16), "hole_width_range": (16, 16), "fill": 128, "p": 1}
        steps.append(A.CoarseDropout(num_holes_range=(1, 1), **square))
    return A.Compose(steps).to_dict()
