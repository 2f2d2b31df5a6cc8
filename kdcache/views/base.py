"""What a view is: one deterministic rendering of one image from a 64-bit seed."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import UsageError

REMEDY = "take resized-crop:SIZE, or a pipeline that ends in one size"
Images = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class View:
    """`render(images, seeds)` is a pure function; `size` is that of its output."""

    size: tuple[int, int]
    name: ClassVar[str] = ""
    native: ClassVar[bool] = True
    """Whole batches of integer arithmetic on any device; other views render one by one, in workers."""
    mixes: ClassVar[bool] = False
    """Whether an image is mixed with another row's; then the view has `partners(seeds)` and `kept(seeds)`, too."""

    packages: ClassVar[tuple[str, ...]] = ()
    """What is installed that its pixels depend on, beside kdcache and what decodes images."""

    @property
    def plain(self) -> View:
        """The view whose images are mixed, else itself."""
        return self.of if self.mixes else self

    @property
    def count(self) -> int | None:
        """How many renderings an image has, where that is a number worth enumerating."""
        return None

    def render(self, images: Images, seeds: Tensor) -> Tensor:
        """uint8 [n, 3, h, w], on the device of the images; every draw is made in NumPy, on the host."""
        raise NotImplementedError

    def show(self, read: Callable[[np.ndarray], Images], rows: np.ndarray, seeds: Tensor) -> Tensor:
        """The renderings of these rows, whose images are read when they are needed."""
        return self.render(read(rows), seeds)

    def evaluation(self) -> View:
        """The view of the same size that has no randomness."""
        raise NotImplementedError

    def to_json(self) -> dict:
        raise NotImplementedError


def stacked(view: View, images: Images) -> Tensor:
    """Images as one tensor, for views that cannot do with another size than their own."""
    sizes = {tuple(image.shape[-2:]) for image in ([images] if isinstance(images, Tensor) else images)}
    if sizes - {view.size}:
        expected, found = ("an image of {} x {}".format(*size) for size in (view.size, (sizes - {view.size}).pop()))
        raise UsageError(f"view {view.name}", expected, found, REMEDY)
    return images if isinstance(images, Tensor) else torch.stack(list(images))


def host(seeds: Tensor) -> np.ndarray:
    """Seeds for NumPy: some hundred tiny operations of Philox cost a GPU more than sending it their results."""
    return seeds.cpu().numpy()


def same_size(spec: str, size: tuple[int, int] | None) -> tuple[int, int]:
    """The size of the images, for views that cannot do with several."""
    if size is None:
        raise UsageError(f"view {spec}", "images of one size", "images of several sizes", REMEDY)
    return size


def unknown_view(spec: str, known) -> UsageError:
    close = difflib.get_close_matches(spec.partition(":")[0], known, 1)
    hint = f"did you mean {close[0]}?" if close else "`kdcache list views` explains them"
    return UsageError("--augment", f"one of {', '.join(known)}", repr(spec), hint)
