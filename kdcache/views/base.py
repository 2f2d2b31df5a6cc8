"""What a view is: one deterministic rendering of one image from a 64-bit seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

REMEDY = "take resized-crop:SIZE, or a pipeline that ends in one size"
Images: TypeAlias = "Tensor | Sequence[Tensor]"


@dataclass(frozen=True)
class View:
    """What shows the images of sample-views; `size` is that of its output. Subclasses are abstract or final."""

    size: tuple[int, int]
    name: ClassVar[str]
    native: ClassVar[bool] = True
    """Whole batches of integer arithmetic on any device; other views render one by one, in workers."""
    mixes: ClassVar[bool] = False
    """Whether an image is mixed with another row's; then the view has `partners(seeds)` and `kept(seeds)`, too."""

    count: ClassVar[int | None] = None
    """How many renderings an image has, where that is a number worth enumerating."""

    @property
    def enumerated(self) -> bool:
        """Whether a seed is the number of a rendering, from 0 to count - 1."""
        return False

    @property
    def alternates(self) -> bool:
        """Whether views are weak and strong by turns: the last bit of a seed, which is that of the view's number."""
        return False

    @property
    def plain(self) -> Plain:
        """The view whose images are mixed, else itself."""
        raise NotImplementedError

    def show(self, read: Callable[[np.ndarray], Images], rows: np.ndarray, seeds: Tensor) -> Tensor:
        """The renderings of these rows, uint8 [n, 3, h, w]; their images are read when they are needed."""
        raise NotImplementedError

    def evaluation(self) -> Plain:
        """The view of the same size that has no randomness."""
        raise NotImplementedError

    def to_json(self) -> dict:
        """What stands in the header of a cache: whoever has parameters adds them."""
        return {"view": self.name, "size": list(self.size)}


@dataclass(frozen=True)
class Plain(View):
    """A view of single images, which a user can name; `render(images, seeds)` is a pure function."""

    help: ClassVar[str]
    argument: ClassVar[str] = ""
    """What is written behind its name and a colon; views without one refuse whatever stands there."""
    packages: ClassVar[tuple[str, ...]] = ()
    """What is installed that its pixels depend on, beside kdcache and what decodes images."""
    runs_user_code: ClassVar[bool] = False
    """Whether code that is not ours is imported; then the header of a cache does so only if the user names it."""

    @classmethod
    def line(cls, **options) -> str:
        """A line of help; `options` stand in the table, for classes that serve several names."""
        return cls.help

    @classmethod
    def parse(cls, spec: str, argument: str, size: tuple[int, int] | None, **options) -> Plain:
        """The view that a user writes as `spec`, NAME or NAME:ARGUMENT, for images of this size."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, place: object, header: dict) -> Plain:
        """The view of a header; what is wrong with it may be any KeyError, TypeError or ValueError."""
        return cls(size_in(header))

    @property
    def plain(self):
        return self

    def render(self, images: Images, seeds: Tensor) -> Tensor:
        """uint8 [n, 3, h, w], on the device of the images; every draw is made in NumPy, on the host."""
        raise NotImplementedError

    def show(self, read, rows, seeds):
        return self.render(read(rows), seeds)

    def every(self) -> Plain:
        """The view whose seeds count through its `count` renderings."""
        return self


def stacked(view: View, images: Images) -> Tensor:
    """Images as one tensor, for views that cannot do with another size than their own."""
    sizes = {tuple(image.shape[-2:]) for image in ([images] if isinstance(images, torch.Tensor) else images)}
    if sizes - {view.size}:
        expected, found = ("an image of {} x {}".format(*size) for size in (view.size, (sizes - {view.size}).pop()))
        raise UsageError(f"view {view.name}", expected, found, REMEDY)
    return images if isinstance(images, torch.Tensor) else torch.stack(list(images))


def host(seeds: Tensor) -> np.ndarray:
    """Seeds for NumPy: some hundred tiny operations of Philox cost a GPU more than sending it their results."""
    return seeds.cpu().numpy()


def same_size(spec: str, size: tuple[int, int] | None) -> tuple[int, int]:
    """The size of the images, for views that cannot do with several."""
    if size is None:
        raise UsageError(f"view {spec}", "images of one size", "images of several sizes", REMEDY)
    return size


def size_in(header: dict) -> tuple[int, int]:
    return pair_of(header["size"], least=1)


def pair_of(given, least: int) -> tuple[int, int]:
    """Two whole numbers, none of them absurd: headers may lie."""
    first, second = given
    if not all(type(n) is int and least <= n < 1 << 16 for n in (first, second)):
        raise ValueError(f"two numbers from {least} to 65535 are not {first!r} and {second!r}")
    return first, second
