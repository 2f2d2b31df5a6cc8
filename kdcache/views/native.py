"""Views in integer arithmetic on whole batches, bit-exact on every device."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from kdcache.errors import UsageError
from kdcache.limits import MOST_SIDE
from kdcache.seeds import ERASING, GEOMETRY, below, draw
from kdcache.views.base import Plain, host, pair_of, same_size, size_in, stacked
from kdcache.views.crop import crop, erase
from kdcache.views.resize import centre_boxes, heights_and_widths, random_boxes, resize_each

GREY = 128  # near the mean, which is what zero after normalisation is


@dataclass(frozen=True)
class Untouched(Plain):
    """The image itself."""

    name: ClassVar[str] = "none"
    help: ClassVar[str] = "the image itself"
    count: ClassVar[int] = 1

    @classmethod
    def parse(cls, spec, argument, size):
        return cls(same_size(spec, size))

    def render(self, images, seeds):
        return stacked(self, images)

    def evaluation(self):
        return self


@dataclass(frozen=True)
class Crop(Plain):
    """Pad with black, crop at a random place; perhaps flip; perhaps cut a grey square out.

    Where it is enumerated, a seed is the number of one of all the renderings.
    """

    pad: int = 4
    flip: bool = False
    cutout: int = 0
    enumerated: bool = field(default=False, kw_only=True)

    @classmethod
    def line(cls, flip=False, cutout=0):
        if cutout:
            return f"crop{'-flip' * flip}, and a grey {cutout}x{cutout} square"
        use = "the standard of CIFAR" if flip else "for images that a flip would falsify"
        return f"pad {cls.pad}, random crop{', flip' * flip}: {cls((0, 0), flip=flip).count} renderings; {use}"

    @classmethod
    def parse(cls, spec, argument, size, **options):
        return cls(same_size(spec, size), **options)

    @classmethod
    def from_json(cls, place, header):
        pad, cutout = pair_of((header["pad"], header["cutout"]), least=0)
        view = cls(size_in(header), pad, header["flip"], cutout, enumerated=header.get("enumerated", False))
        whether = type(view.flip) is type(view.enumerated) is bool
        if not whether or view.to_json() != header or (view.enumerated and not view.count):
            raise ValueError("parameters of another view")
        return view

    @property
    def name(self):
        return "crop" + "-flip" * self.flip + "-cutout" * bool(self.cutout)

    @property
    def count(self):
        return None if self.cutout else (2 * self.pad + 1) ** 2 * (1 + self.flip)

    def every(self):
        return replace(self, enumerated=True)

    def parameters(self, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Top, left and flip."""
        side = 2 * self.pad + 1
        if self.enumerated:
            place, flip = np.divmod(seeds, 1 + self.flip)
            return *np.divmod(place, side), flip
        top, left, flip, _ = draw(seeds, 0, GEOMETRY)
        return below(top, side), below(left, side), (flip >> 31) & self.flip

    def square(self, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Top and left of the cut-out, whose centre lies anywhere in the image."""
        y, x, _, _ = draw(seeds, 0, ERASING)
        return below(y, self.size[0]) - self.cutout // 2, below(x, self.size[1]) - self.cutout // 2

    def render(self, images, seeds):
        seeds = host(seeds)
        out = crop(stacked(self, images), *self.parameters(seeds), self.pad)
        return erase(out, *self.square(seeds), (self.cutout, self.cutout), GREY) if self.cutout else out

    def evaluation(self):
        return Untouched(self.size)

    def to_json(self):
        facts = {"pad": self.pad, "flip": self.flip, "cutout": self.cutout}
        return super().to_json() | facts | ({"enumerated": True} if self.enumerated else {})


@dataclass(frozen=True)
class Resized(Plain):
    """Images of any size become squares of one."""

    argument: ClassVar[str] = "SIZE"

    @classmethod
    def parse(cls, spec, argument, size):
        return cls(square_of(spec, argument, size))


@dataclass(frozen=True)
class ResizedCrop(Resized):
    """A box of 8 to 100 % of the area and a ratio from 3/4 to 4/3, resized; flipped half of the time."""

    name: ClassVar[str] = "resized-crop"
    help: ClassVar[str] = (
        "resized-crop:SIZE, a box of 8 to 100 % of the image, resized, flipped; the standard of ImageNet"
    )

    def render(self, images, seeds):
        return resize_each(images, *random_boxes(*heights_and_widths(images), host(seeds)), self.size)

    def evaluation(self):
        return Centre(self.size)


@dataclass(frozen=True)
class Centre(Resized):
    """The middle 7/8 of the shorter side, resized."""

    name: ClassVar[str] = "centre"
    help: ClassVar[str] = "centre:SIZE, the middle of the image, resized"
    count: ClassVar[int] = 1

    def render(self, images, seeds):
        boxes = centre_boxes(*heights_and_widths(images))
        return resize_each(images, boxes, np.zeros(len(images), np.int64), self.size)

    def evaluation(self):
        return self


def square_of(spec: str, argument: str, size: tuple[int, int] | None) -> tuple[int, int]:
    """The size that a user asks for by one side, or the height of the images."""
    side = int(argument) if argument.isdecimal() and len(argument) < 9 else size[0] if size and not argument else 0
    if not 1 <= side <= MOST_SIDE:
        name = spec.partition(":")[0]
        raise UsageError("`augment`", f"{name}:SIZE", repr(spec), f"try {name}:224")
    return side, side
