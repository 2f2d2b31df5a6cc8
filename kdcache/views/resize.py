"""Boxes and resizing in fixed point: the same pixels on every machine and device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.seeds import GEOMETRY, below, draw
from kdcache.views.base import Images

if TYPE_CHECKING:
    from torch import Tensor

ONE, TRIES = 1 << 16, 10
LEAST = ONE * 8 // 100
CACHE = 1 << 18  # bytes of pixels that are resized together: with what becomes of them, what a core keeps at hand
# ratios from 3/4 to 4/3, even in their logarithm, as fixed-point numbers: a table, since exp() differs between machines
RATIOS = np.array([round(ONE * math.exp((i / 512 - 1) * math.log(4 / 3))) for i in range(1025)]) / ONE

Boxes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Top, left, height, width."""
Taps = tuple[np.ndarray, np.ndarray]
"""What `taps` gives."""


def heights_and_widths(images: Images) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(images, torch.Tensor):
        return tuple(np.full(len(images), side) for side in images.shape[2:])
    return tuple(np.array([image.shape[1:] for image in images]).T)


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
    if isinstance(images, torch.Tensor) and (shrink < 2).any():
        out = resize(images, boxes, flip, size)
        alone = np.flatnonzero(shrink > 1)
    else:
        out, alone = images[0].new_empty(len(images), images[0].shape[0], *size), np.arange(len(images))
    for i, (top, left, height, width) in zip(alone.tolist(), np.stack(boxes, 1)[alone].tolist(), strict=True):
        box = average(images[i][:, top : top + height, left : left + width], int(shrink[i]))
        whole = tuple(np.array([v]) for v in (0, 0, *box.shape[1:]))
        out[i] = resize(box[None], whole, flip[i : i + 1], size)[0]
    return out


def average(image: Tensor, k: int) -> Tensor:
    """Means of k x k pixels; what is left over is dropped, half of it at either edge."""
    if k < 2:
        return image
    height, width = (side // k for side in image.shape[1:])
    top, left = (side % k // 2 for side in image.shape[1:])
    rows = image[:, top : top + height * k, left : left + width * k].unflatten(1, (height, k)).sum(2, dtype=torch.int32)
    cells = rows.unflatten(2, (width, k)).sum(3, dtype=torch.int32)
    return ((cells + k * k // 2) // (k * k)).to(torch.uint8)


def resize(images: Tensor, boxes: Boxes, flip: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Each image's box at the given size. A CPU does as many images at a time as its cache holds."""
    top, left, height, width = boxes
    down, across = taps(top, height, size[0]), taps(left, width, size[1], flip)
    if images.device.type != "cpu":
        return both_axes(images, down, across)
    n, channels, *sides = images.shape
    out = images.new_empty(n, channels, *size)
    together = max(1, CACHE // (channels * max(sides[0], size[0]) * max(sides[1], size[1])))
    for start in range(0, n, together):
        part = slice(start, start + together)
        some, rows, columns = images[part], *((place[:, part], weight[part]) for place, weight in (down, across))
        if together == 1:  # nothing outside its box needs to be touched
            y, x, h, w = (int(side[start]) for side in boxes)
            some, rows, columns = some[:, :, y : y + h, x : x + w], (rows[0] - y, rows[1]), (columns[0] - x, columns[1])
        out[part] = both_axes(some, rows, columns)
    return out


def both_axes(images: Tensor, down: Taps, across: Taps) -> Tensor:
    """One axis after the other, each rounded to whole levels. Whole rows are gathered fastest: columns become rows."""
    n, channels, _, columns = images.shape
    rows = stretch(images, down)
    return turned(stretch(turned(rows.view(n, 1, -1, columns)), across)).view(n, channels, -1, across[1].shape[1])


def taps(start: np.ndarray, length: np.ndarray, out: int, flip=None) -> Taps:
    """The two source rows of every output row [2, n, out], and the weight of the second in 1/128."""
    row, last = 128 * np.arange(out) + 64, length[:, None] - 1
    if flip is not None:
        row = np.where(flip[:, None] == 1, row[::-1], row)
    centre = np.minimum(np.maximum(row * length[:, None] // out - 64, 0), 128 * last)
    first = centre >> 7
    return np.stack([first, np.minimum(first + 1, last)]) + start[:, None], (centre & 127).astype(np.int16)


def stretch(images: Tensor, tap: Taps) -> Tensor:
    """New rows, each a mean of two of the old ones: a + ((b - a) * weight + 64) // 128, within 16 bits."""
    rows, weight = tap
    n, channels, height, width = images.shape
    first_row = (np.arange(n * channels) * height).reshape(n, channels, 1)
    a, b = gather(images.reshape(-1, width), first_row + rows[:, :, None])
    weight = weight[:, None, :, None]
    if isinstance(a, torch.Tensor):
        step = b.short().sub_(a).mul_(torch.from_numpy(weight).to(a.device)).add_(64).bitwise_right_shift_(7)
        return step.to(torch.uint8).add_(a)  # modulo 256, where a negative step comes out right
    step = np.subtract(b, a, dtype=np.int16)
    step *= weight
    step += 64
    step >>= 7
    out = step.astype(np.uint8)
    out += a
    return torch.from_numpy(out)


def gather(table: Tensor, index: np.ndarray) -> Tensor | np.ndarray:
    """Rows of a table, in the shape of their numbers. On the CPU NumPy takes over, two to three times as fast."""
    if table.device.type == "cpu":
        return table.numpy().take(index, 0)
    return table[torch.from_numpy(index).to(table.device)]


def turned(images: Tensor) -> Tensor:
    """Columns as rows."""
    if images.device.type == "cpu":
        return torch.from_numpy(np.ascontiguousarray(images.numpy().swapaxes(2, 3)))
    return images.transpose(2, 3).contiguous()
