"""Views in integer arithmetic on whole batches, bit-exact on every device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kdcache.seeds import ERASING, GEOMETRY, below, draw
from kdcache.views.base import View
from kdcache.views.resize import centre_box, each, random_box, resize

GREY = 128  # near the mean, which is what zero after normalisation is


@dataclass(frozen=True)
class Untouched(View):
    """The image itself."""

    name: ClassVar[str] = "none"

    @property
    def count(self):
        return 1

    def render(self, images, seeds):
        return images

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

    def parameters(self, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Top, left and flip."""
        side = 2 * self.pad + 1
        top, left, flip, _ = draw(seeds, 0, GEOMETRY)
        return below(top, side), below(left, side), (flip >> 31) & self.flip

    def render(self, images, seeds):
        return self.place(images, *self.parameters(seeds), seeds)

    def place(self, images: Tensor, top: Tensor, left: Tensor, flip: Tensor, seeds: Tensor) -> Tensor:
        n, channels, height, width = images.shape
        padded = torch.nn.functional.pad(images, (self.pad,) * 4)
        y = torch.arange(height, device=images.device) + top[:, None]
        x = torch.arange(width, device=images.device).expand(n, width)
        x = torch.where(flip[:, None] == 1, width - 1 - x, x) + left[:, None]
        index = (y[:, :, None] * padded.shape[3] + x[:, None, :]).view(n, 1, -1).expand(n, channels, -1)
        out = padded.flatten(2).gather(2, index).view(images.shape)
        return self.erase(out, seeds) if self.cutout else out

    def erase(self, images: Tensor, seeds: Tensor) -> Tensor:
        height, width = images.shape[2:]
        a, b, _, _ = draw(seeds, 0, ERASING)
        y = torch.arange(height, device=images.device) - below(a, height)[:, None] + self.cutout // 2
        x = torch.arange(width, device=images.device) - below(b, width)[:, None] + self.cutout // 2
        inside = ((y >= 0) & (y < self.cutout))[:, :, None] & ((x >= 0) & (x < self.cutout))[:, None, :]
        return images.masked_fill(inside[:, None], GREY)

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
        place, flip = (seeds // 2, seeds % 2) if self.of.flip else (seeds, seeds * 0)
        return self.of.place(images, place // side, place % side, flip, seeds)

    def evaluation(self):
        return self.of.evaluation()

    def to_json(self):
        return self.of.to_json() | {"enumerated": True}


@dataclass(frozen=True)
class ResizedCrop(View):
    """A box of 8 to 100 % of the area and a ratio from 3/4 to 4/3, resized; flipped half of the time."""

    name: ClassVar[str] = "resized-crop"

    def render(self, images, seeds):
        flip = (draw(seeds, 1, GEOMETRY)[0] >> 31) & 1
        return each(images, lambda image, s, f: resize(image, *random_box(image.shape, s), f, self.size), seeds, flip)

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
        return each(images, lambda image, s: resize(image, *centre_box(image.shape, s), s * 0, self.size), seeds)

    def evaluation(self):
        return self

    def to_json(self):
        return {"view": self.name, "size": list(self.size)}
