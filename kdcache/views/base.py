"""What a view is: one deterministic rendering of one image from a 64-bit seed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import UsageError

Images = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class View:
    """`render(images, seeds)` is a pure function; `size` is that of its output."""

    size: tuple[int, int]
    name: ClassVar[str] = ""
    native: ClassVar[bool] = True
    """Whole batches of integer arithmetic on any device; other views render one by one, in workers."""

    @property
    def count(self) -> int | None:
        """How many renderings an image has, where that is a number worth enumerating."""
        return None

    def render(self, images: Images, seeds: Tensor) -> Tensor:
        """uint8 [n, 3, h, w], on the device of the images; every draw is made in NumPy, on the host."""
        raise NotImplementedError

    def evaluation(self) -> View:
        """The view of the same size that has no randomness."""
        raise NotImplementedError

    def to_json(self) -> dict:
        raise NotImplementedError


def stacked(name: str, images: Images) -> Tensor:
    """Images as one tensor, for views that cannot do with several sizes."""
    if isinstance(images, Tensor):
        return images
    same_size(name, images[0].shape[1:] if len({image.shape for image in images}) == 1 else None)
    return torch.stack(list(images))


def host(seeds: Tensor) -> np.ndarray:
    """Seeds for NumPy: some hundred tiny operations of Philox cost a GPU more than sending it their results."""
    return seeds.cpu().numpy()


def same_size(spec: str, size: tuple[int, int] | None) -> tuple[int, int]:
    """The size of the images, for views that cannot do with several."""
    if size is None:
        remedy = "take resized-crop:224, or a pipeline that ends in one size"
        raise UsageError(f"view {spec}", "images of one size", "images of several sizes", remedy)
    return size


def unknown_view(spec: str, known) -> UsageError:
    close = difflib.get_close_matches(spec.partition(":")[0], known, 1)
    hint = f"did you mean {close[0]}?" if close else "`kdcache list views` explains them"
    return UsageError("--augment", f"one of {', '.join(known)}", repr(spec), hint)
