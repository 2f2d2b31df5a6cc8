"""Boxes and resizing in fixed point: the same pixels on every machine and device."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from kdcache.seeds import GEOMETRY, below, draw
from kdcache.views.base import Images

TRIES = 10
ONE = 1 << 16
LEAST = ONE * 8 // 100
# ratios from 3/4 to 4/3, even in their logarithm, as fixed-point numbers: a table, since exp() differs between machines
RATIOS = np.array([round(ONE * math.exp((i / 512 - 1) * math.log(4 / 3))) for i in range(1025)])

Boxes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Top, left, height, width."""


def heights_and_widths(images: Images) -> tuple[np.ndarray, np.ndarray]:
    sizes = [image.shape[1:] for image in images] if isinstance(images, list | tuple) else [images.shape[2:]] * len(images)
    return tuple(np.array(sizes, dtype=np.int64).reshape(-1, 2).T)


def random_boxes(height: np.ndarray, width: np.ndarray, seeds: np.ndarray) -> Boxes:
    """The first of ten draws that fits, else the largest allowed box in the middle."""
    w, h = (np.zeros((len(seeds), TRIES), dtype=np.int64) for _ in range(2))
    words = draw(seeds[:, None], np.arange(1, 1 + TRIES // 2), GEOMETRY)
    for half in (0, 1):  # one draw serves two tries
        area = (height * width)[:, None] * (LEAST + below(words[2 * half], ONE + 1 - LEAST)) / ONE
        ratio = RATIOS[below(words[2 * half + 1], len(RATIOS))] / ONE
        # IEEE demands exact rounding of +, *, / and sqrt in f64, so these are the same everywhere
        w[:, half::2] = np.floor(np.sqrt(area * ratio) + 0.5)
        h[:, half::2] = np.floor(np.sqrt(area / ratio) + 0.5)
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    first = np.arange(len(seeds)), fits.argmax(1)
    w = np.where(fits.any(1), w[first], np.clip(height * 4 // 3, 1, width))
    h = np.where(fits.any(1), h[first], np.clip(width * 4 // 3, 1, height))
    top, left, _, _ = draw(seeds, 0, GEOMETRY)
    top = np.where(fits.any(1), below(top, height - h + 1), (height - h) // 2)
    left = np.where(fits.any(1), below(left, width - w + 1), (width - w) // 2)
    return top, left, h, w


def centre_boxes(height: np.ndarray, width: np.ndarray) -> Boxes:
    """The middle 7/8 of the shorter side, as a square."""
    side = np.maximum(1, np.minimum(height, width) * 7 // 8)
    return (height - side) // 2, (width - side) // 2, side, side


def resize_each(images: Images, boxes: Boxes, flip: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Each image's box at the given size: bilinear, after averaging whole pixels where it shrinks twofold or more."""
    shrink = np.minimum(boxes[2] // size[0], boxes[3] // size[1])
    if isinstance(images, Tensor) and (shrink < 2).all():
        return resize(images, boxes, flip, size)
    out = []
    for i, (top, left, height, width) in enumerate(np.stack(boxes, 1).tolist()):
        box = average(images[i][:, top : top + height, left : left + width], int(shrink[i]))
        whole = tuple(np.array([v]) for v in (0, 0, *box.shape[1:]))
        out.append(resize(box[None], whole, flip[i : i + 1], size))
    return torch.cat(out)


def average(image: Tensor, k: int) -> Tensor:
    """Means of k x k pixels; what is left over at the far edges is dropped."""
    if k < 2:
        return image
    height, width = (side // k for side in image.shape[1:])
    rows = image[:, : height * k, : width * k].unflatten(1, (height, k)).sum(2, dtype=torch.int32)
    cells = rows.unflatten(2, (width, k)).sum(3, dtype=torch.int32)
    return ((cells + k * k // 2) // (k * k)).to(torch.uint8)


def resize(images: Tensor, boxes: Boxes, flip: np.ndarray, size: tuple[int, int]) -> Tensor:
    """One axis after the other, each rounded to whole levels; rows are what can be gathered fast, so columns become rows."""
    top, left, height, width = boxes
    down = stretch(images, taps(top, height, size[0], flip & 0))
    across = stretch(down.transpose(2, 3).contiguous(), taps(left, width, size[1], flip))
    return across.transpose(2, 3).contiguous()


def taps(start: np.ndarray, length: np.ndarray, out: int, flip: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two source rows of every output row, and the weight of the second in 1/128."""
    row = np.where(flip[:, None] == 1, np.arange(out)[::-1], np.arange(out))
    centre = (2 * row + 1) * length[:, None] * 128 // (2 * out) - 64
    centre = np.clip(centre, 0, (length[:, None] - 1) * 128)
    first = centre >> 7
    second = np.minimum(first + 1, length[:, None] - 1)
    return first + start[:, None], second + start[:, None], centre & 127


def stretch(images: Tensor, tap: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Tensor:
    """New rows, each a mean of two of the old ones: a + ((b - a) * weight + 64) // 128, within 16 bits."""
    first, second, weight = tap
    n, channels, height, width = images.shape
    image = (np.arange(n * channels) * height).reshape(n, channels, 1)
    flat = images.reshape(-1, width)
    a, b = (flat.index_select(0, torch.from_numpy((image + rows[:, None]).ravel()).to(flat.device)) for rows in (first, second))
    weight = torch.from_numpy(weight.astype(np.int16)).to(flat.device)[:, None, :, None]
    step = b.short().sub_(a).view(n, channels, -1, width).mul_(weight).add_(64) >> 7
    return step.to(torch.uint8).add_(a.view(step.shape))  # modulo 256, where a negative step comes out right
