"""Boxes and resizing in fixed point: the same pixels on every machine and device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.seeds import GEOMETRY, below, draw
from kdcache.views.base import Images
from kdcache.views.stretch import in_channels, part, stretch, taps

if TYPE_CHECKING:
    from torch import Tensor

ONE, TRIES = 1 << 16, 10
LEAST = ONE * 8 // 100
CACHE = 1 << 18  # bytes of pixels that are resized together: with what becomes of them, what a core keeps at hand
# ratios from 3/4 to 4/3, even in their logarithm, as fixed-point numbers: a table, since exp() differs between machines
RATIOS = np.array([round(ONE * math.exp((i / 512 - 1) * math.log(4 / 3))) for i in range(1025)]) / ONE

Boxes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Top, left, height, width."""


def heights_and_widths(images: Images) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(images, torch.Tensor):
        height, width = (np.full(len(images), side) for side in images.shape[2:])
    else:
        height, width = np.array([image.shape[1:] for image in images]).T
    return height, width


def random_boxes(height: np.ndarray, width: np.ndarray, seeds: np.ndarray) -> tuple[Boxes, np.ndarray]:
    """The first of ten draws that fits, else the largest allowed box in the middle; and whether to mirror it."""
    words = np.stack(draw(seeds[:, None], np.arange(4), GEOMETRY), 2)
    tries = words[:, 1:].reshape(len(seeds), -1)[:, :TRIES]
    area = (height * width)[:, None] * (LEAST + ((tries >> 16) * (ONE + 1 - LEAST) >> 16)) / ONE
    ratio = RATIOS[(tries & 0xFFFF) * len(RATIOS) >> 16]
    # IEEE demands exact rounding of +, *, / and sqrt in f64, so these are the same everywhere
    w, h = (np.floor(np.sqrt(side) + 0.5).astype(np.int64) for side in (area * ratio, area / ratio))
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    first, some = (np.arange(len(seeds)), fits.argmax(1)), fits.any(1)
    w = np.where(some, w[first], np.clip(height * 4 // 3, 1, width))
    h = np.where(some, h[first], np.clip(width * 4 // 3, 1, height))
    top, left, flip, _ = words[:, 0].T
    top = np.where(some, below(top, height - h + 1), (height - h) // 2)
    left = np.where(some, below(left, width - w + 1), (width - w) // 2)
    return (top, left, h, w), flip >> 31


def centre_boxes(height: np.ndarray, width: np.ndarray) -> Boxes:
    """The middle 7/8 of the shorter side, as a square."""
    side = np.maximum(1, np.minimum(height, width) * 7 // 8)
    return (height - side) // 2, (width - side) // 2, side, side


def resize_each(images: Images, boxes: Boxes, flip: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Each image's box at the given size: bilinear, after averaging whole pixels where it shrinks twofold or more."""
    shrink = np.minimum(boxes[2] // size[0], boxes[3] // size[1])
    if not isinstance(images, torch.Tensor) and images[0].device.type != "cpu":
        images = on_canvas(list(images))
    out = images[0].new_empty(len(images), images[0].shape[0], *size)
    together = at_once(images, size)
    if isinstance(images, torch.Tensor) and together > 1 and (shrink < 2).any():
        resize(images, boxes, flip, out, together)
        alone = np.flatnonzero(shrink > 1)
    else:
        alone = np.arange(len(images))
    each = zip(alone.tolist(), *(side[alone].tolist() for side in (*boxes, shrink)), strict=True)
    cut = [average(in_place(images[i])[:, y : y + h, x : x + w], k) for i, y, x, h, w, k in each]
    resize_alone(cut, flip[alone], out, alone)
    return out


def on_canvas(images: list[Tensor]) -> Tensor:
    """Images of several sizes as one tensor, in the upper left of as much as the largest need: no box goes beyond."""
    sides = [max(image.shape[axis] for image in images) for axis in (1, 2)]
    canvas = images[0].new_zeros(len(images), images[0].shape[0], *sides)
    for image, place in zip(images, canvas, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return canvas


def at_once(images: Images, size: tuple[int, int]) -> int:
    """How many images are resized together: of one size, on a CPU, as many as its cache holds."""
    if not isinstance(images, torch.Tensor):
        return 1
    n, channels, height, width = images.shape
    if images.device.type != "cpu":
        return max(2, n)  # even one: what is resized alone is cut out first
    return max(1, CACHE // (channels * max(height, size[0]) * max(width, size[1])))


def resize(images: Tensor, boxes: Boxes, flip: np.ndarray, out: Tensor, together: int) -> None:
    """Writes each image's box at the size of `out`, so many images at a time."""
    top, left, height, width = boxes
    down = in_channels(taps(top, height, out.shape[2]), images.shape[1], images.shape[2])
    across = taps(left, width, out.shape[3], flip)
    images, out = in_place(images), in_place(out)
    for start in range(0, len(images), together):
        stop = start + together
        stretch(images[start:stop], part(down, start, stop), part(across, start, stop), out[start:stop])


def resize_alone(images: list, flip: np.ndarray, out: Tensor, rows: np.ndarray) -> None:
    """Writes whole images, whose sizes may differ, to these rows of `out`, at its size."""
    height, width = np.array([image.shape[1:] for image in images], np.int64).reshape(-1, 2).T
    down = in_channels(taps(0, height, out.shape[2]), out.shape[1], height)
    across = taps(0, width, out.shape[3], flip)
    out = in_place(out)
    for i, (row, image) in enumerate(zip(rows.tolist(), images, strict=True)):
        stretch(image[None], part(down, i, i + 1), part(across, i, i + 1), out[row : row + 1])


def in_place(images: Tensor) -> Tensor | np.ndarray:
    """The memory of images as NumPy's, which cuts and gathers several times as fast, where they are on the CPU."""
    return images.numpy() if images.device.type == "cpu" else images


def average(image: Tensor | np.ndarray, k: int) -> Tensor | np.ndarray:
    """Means of k x k pixels; what is left over is dropped, half of it at either edge."""
    if k < 2:
        return image
    height, width = (side // k for side in image.shape[1:])
    top, left = (side % k // 2 for side in image.shape[1:])
    cells = torch.as_tensor(image)[:, top : top + height * k, left : left + width * k]
    rows = cells.unflatten(1, (height, k)).sum(2, dtype=torch.int32)
    cells = rows.unflatten(2, (width, k)).sum(3, dtype=torch.int32)
    means = ((cells + k * k // 2) // (k * k)).to(torch.uint8)
    return means.numpy() if isinstance(image, np.ndarray) else means
