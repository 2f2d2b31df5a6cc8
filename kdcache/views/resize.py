"""Boxes and resizing in fixed point: the same pixels on every machine and device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdcache.seeds import GEOMETRY, below, draw

TRIES = 10
ONE = 1 << 16
# ratios from 3/4 to 4/3, even in their logarithm, as fixed-point numbers: a table, since exp() differs between machines
RATIOS = torch.tensor([round(ONE * math.exp((i / 512 - 1) * math.log(4 / 3))) for i in range(1025)])


def each(images, render, *arguments: Tensor) -> Tensor:
    """render(images, *arguments) for a batch of one size, or image by image."""
    if isinstance(images, Tensor):
        return render(images, *arguments)
    return torch.cat([render(image[None], *(a[i : i + 1] for a in arguments)) for i, image in enumerate(images)])


def random_box(shape, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height, width: the first of ten draws that fits, else the largest allowed box in the middle."""
    height, width = shape[2:]
    tries = torch.arange(TRIES, device=seeds.device) + 2
    area, ratio, top, left = draw(seeds[:, None], tries, GEOMETRY)
    area = height * width * (ONE * 8 // 100) + height * width * below(area, ONE - ONE * 8 // 100 + 1)  # in 1/65536
    area, ratio = area.double() / ONE, RATIOS.to(seeds.device)[below(ratio, len(RATIOS))].double() / ONE
    # IEEE demands exact rounding of +, *, / and sqrt in f64, so these are the same everywhere
    w = ((area * ratio).sqrt() + 0.5).floor().long()
    h = ((area / ratio).sqrt() + 0.5).floor().long()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)
    h, w, top, left = (v.gather(1, first)[:, 0] for v in (h, w, top, left))
    top, left = below(top, height - h + 1), below(left, width - w + 1)
    none = ~fits.any(1)
    middle_w = max(1, min(width, height * 4 // 3))
    middle_h = max(1, min(height, width * 4 // 3))
    h, w = h.masked_fill(none, middle_h), w.masked_fill(none, middle_w)
    top, left = (
        top.masked_fill(none, (height - middle_h) // 2),
        left.masked_fill(none, (width - middle_w) // 2),
    )
    return top, left, h, w


def centre_box(shape, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    height, width = shape[2:]
    side = max(1, min(height, width) * 7 // 8)
    full = torch.zeros_like(seeds)
    return full + (height - side) // 2, full + (width - side) // 2, full + side, full + side


def resize(images: Tensor, top, left, height, width, flip, size: tuple[int, int]) -> Tensor:
    """Each image's box at the given size: bilinear, after averaging whole pixels where it shrinks twofold or more."""
    shrink = torch.minimum(height // size[0], width // size[1])
    if (shrink > 1).any():
        boxes = zip(images, *(v.tolist() for v in (top, left, height, width, shrink)), flip[:, None], strict=True)
        return torch.cat([_shrink(*box, size) for box in boxes])
    y0, y1, wy = _taps(height, size[0], top)
    x0, x1, wx = _taps(width, size[1], left)
    x0, x1, wx = (torch.where(flip[:, None] == 1, v.flip(1), v) for v in (x0, x1, wx))
    pixels = images.int()
    n, c, _, w = pixels.shape
    rows = [pixels.gather(2, y[:, None, :, None].expand(n, c, size[0], w)) for y in (y0, y1)]
    rows = rows[0] * 256 + (rows[1] - rows[0]) * wy[:, None, :, None]
    columns = [rows.gather(3, x[:, None, None, :].expand(n, c, *size)) for x in (x0, x1)]
    out = columns[0] * 256 + (columns[1] - columns[0]) * wx[:, None, None, :]
    return ((out + 32768) >> 16).to(torch.uint8)


def _shrink(image: Tensor, top: int, left: int, height: int, width: int, k: int, flip: Tensor, size) -> Tensor:
    height, width = height if k < 2 else height // k * k, width if k < 2 else width // k * k
    box = image[:, top : top + height, left : left + width].int()
    if k > 1:
        cells = box.unflatten(1, (height // k, k)).unflatten(3, (width // k, k))
        box = (cells.sum((2, 4)) + k * k // 2) // (k * k)
    zero = flip * 0
    return resize(box[None], zero, zero, zero + box.shape[1], zero + box.shape[2], flip, size)


def _taps(length: Tensor, out: int, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two source pixels of every output pixel, and the weight of the second in 1/256."""
    centre = ((2 * torch.arange(out, device=length.device) + 1) * length[:, None] * ONE) // (2 * out) - ONE // 2
    centre = centre.clamp(min=0).minimum((length[:, None] - 1) * ONE)
    first = centre >> 16
    second = torch.minimum(first + 1, length[:, None] - 1)
    return first + start[:, None], second + start[:, None], ((centre >> 8) & 255).int()
