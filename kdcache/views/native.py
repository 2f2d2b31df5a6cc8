"""Views in integer arithmetic on whole batches, bit-exact on every device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kdcache.seeds import ERASING, GEOMETRY, below, draw
from kdcache.views.base import View, host, stacked
from kdcache.views.crop import crop, erase
from kdcache.views.resize import centre_boxes, heights_and_widths, random_boxes, resize_each

GREY = 128  # near the mean, which is what zero after normalisation is


@dataclass(frozen=True)
class Untouched(View):
    """The image itself."""

    name: ClassVar[str] = "none"

    @property
    def count(self):
        return 1

    def render(self, images, seeds):
        return stacked(self, images)

    def evaluation(self):
        return self

    def to_json(self):
        return {"view": self.name, "size": list(self.size)}


@dataclass(frozen=True)
class Crop(View):
    """Pad with black, crop at a random place; perhaps flip; perhaps cut a grey square out."""

    pad: int = 4
    flip: bool = False
    cutout: int = 0

    @property
    def name(self):
        return "crop" + "-flip" * self.flip + "-cutout" * bool(self.cutout)

    @property
    def count(self):
        return None if self.cutout else (2 * self.pad + 1) ** 2 * (1 + self.flip)

    def parameters(self, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Top, left and flip."""
        side = 2 * self.pad + 1
        top, left, flip, _ = draw(seeds, 0, GEOMETRY)
        return below(top, side), below(left, side), (flip >> 31) & self.flip

    def square(self, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Top and left of the cut-out, whose centre lies anywhere in the image."""
        y, x, _, _ = draw(seeds, 0, ERASING)
        return below(y, self.size[0]) - self.cutout // 2, below(x, self.size[1]) - self.cutout // 2

    def render(self, images, seeds):
        seeds = host(seeds)
        out = crop(stacked(self, images), *self.parameters(seeds), self.pad)
        return erase(out, *self.square(seeds), self.cutout, GREY) if self.cutout else out

    def evaluation(self):
        return Untouched(self.size)

    def to_json(self):
        facts = {"pad": self.pad, "flip": self.flip, "cutout": self.cutout}
        return {"view": self.name, "size": list(self.size)} | facts


@dataclass(frozen=True)
class Enumerated(View):
    """All renderings of a crop: the seed is a number from 0 to count - 1."""

    of: Crop

    @property
    def name(self):
        return self.of.name

    @property
    def count(self):
        return self.of.count

    def render(self, images, seeds):
        side = 2 * self.of.pad + 1
        place, flip = np.divmod(host(seeds), 1 + self.of.flip)
        return crop(stacked(self, images), *np.divmod(place, side), flip, self.of.pad)

    def evaluation(self):
        return self.of.evaluation()

    def to_json(self):
        return self.of.to_json() | {"enumerated": True}


@dataclass(frozen=True)
class ResizedCrop(View):
    """A box of 8 to 100 % of the area and a ratio from 3/4 to 4/3, resized; flipped half of the time."""

    name: ClassVar[str] = "resized-crop"

    def render(self, images, seeds):
        return resize_each(images, *random_boxes(*heights_and_widths(images), host(seeds)), self.size)

    def evaluation(self):
        return Centre(self.size)

    def to_json(self):
        return {"view": self.name, "size": list(self.size)}


@dataclass(frozen=True)
class Centre(View):
    """The middle 7/8 of the shorter side, resized."""

    name: ClassVar[str] = "centre"

    @property
    def count(self):
        return 1

    def render(self, images, seeds):
        boxes = centre_boxes(*heights_and_widths(images))
        return resize_each(images, boxes, np.zeros(len(images), np.int64), self.size)

    def evaluation(self):
        return self

    def to_json(self):
        return {"view": self.name, "size": list(self.size)}
