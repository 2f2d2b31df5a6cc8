"""Crops of padded images, flips and cut-outs: copies of pixels, by the way that is fastest on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from kdcache import lazy_torch as torch

if TYPE_CHECKING:
    from torch import Tensor


def crop(images: Tensor, top: np.ndarray, left: np.ndarray, flip: np.ndarray, pad: int) -> Tensor:
    """Every image in a black frame, seen through a window of its own size, and mirrored where `flip` is 1."""
    return (windows if images.device.type == "cpu" else gathered)(images, top, left, flip, pad)


def windows(images: Tensor, top, left, flip, pad: int) -> Tensor:
    """On the CPU: whole rows are copied out of a view of all windows."""
    n, channels, height, width = images.shape
    padded = np.zeros((n, channels, height + 2 * pad, width + 2 * pad), dtype=np.uint8)
    padded[:, :, pad : pad + height, pad : pad + width] = images.numpy()
    out = sliding_window_view(padded, (height, width), (2, 3))[np.arange(n), :, top, left]
    turned = np.flatnonzero(flip)
    if width % 8:
        out[turned] = out[turned][..., ::-1]
    else:  # eight pixels at a time: the words of a row in reverse, and the bytes of each word
        words = out.view(np.uint64)
        words[turned] = words[turned][..., ::-1].byteswap()
    return torch.from_numpy(out)


def gathered(images: Tensor, top, left, flip, pad: int) -> Tensor:
    """On a GPU: one gather by the numbers of the pixels."""
    n, channels, height, width = images.shape
    top, left, flip = (torch.from_numpy(v).to(images.device)[:, None] for v in (top, left, flip))
    y, x = (torch.arange(side, device=images.device).expand(n, side) for side in (height, width))
    x = torch.where(flip == 1, width - 1 - x, x) + left
    index = ((y + top)[:, :, None] * (width + 2 * pad) + x[:, None, :]).view(n, 1, -1).expand(n, channels, -1)
    return torch.nn.functional.pad(images, (pad,) * 4).flatten(2).gather(2, index).view(images.shape)


def erase(images: Tensor, top: np.ndarray, left: np.ndarray, size: tuple, value: int) -> Tensor:
    """The images, in place, with a box of one value each, which may reach over the edge.

    `size` is height and width, numbers or one for each image.
    """
    rows = _within(top, size[0], images.shape[2], images.device)
    columns = _within(left, size[1], images.shape[3], images.device)
    return images.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], value)


def _within(start: np.ndarray, side: int | np.ndarray, length: int, device) -> Tensor:
    place = np.arange(length) - start[:, None]
    return torch.from_numpy((place >= 0) & (place < np.reshape(side, (-1, 1)))).to(device)
