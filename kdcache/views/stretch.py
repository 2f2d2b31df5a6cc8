"""Images at another size: bilinear, in whole numbers, by the way that is fastest on the device.

One axis after the other, each rounded to whole levels: a + ((b - a) * weight + 64) // 128, within 16 bits. Whole rows
are gathered fastest, so the second axis is stretched as rows, too, of the image turned over its diagonal. An image is
a table of its rows here, one channel below the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kdcache import lazy_torch as torch

if TYPE_CHECKING:
    from torch import Tensor

Taps = tuple[np.ndarray, np.ndarray]
"""What `taps` gives."""


def taps(start: np.ndarray | int, length: np.ndarray, out: int, flip: np.ndarray | None = None) -> Taps:
    """The source row of every output row, int64 [n, out], and the weight of the row below it in 1/128, int16 [n, out].

    That weight is 0 in the last row.
    """
    row, last = 128 * np.arange(out) + 64, length[:, None] - 1
    if flip is not None:
        row = np.where(flip[:, None] == 1, row[::-1], row)
    centre = np.minimum(np.maximum(row * length[:, None] // out - 64, 0), 128 * last)
    return (centre >> 7) + np.reshape(start, (-1, 1)), (centre & 127).astype(np.int16)


def in_channels(places: Taps, channels: int, height: np.ndarray | int) -> Taps:
    """The taps of all channels, [n, channels * out], of images of these heights."""
    first, weight = places
    top = np.arange(channels) * np.reshape(height, (-1, 1))
    return (top[:, :, None] + first[:, None]).reshape(-1, channels * first.shape[1]), np.tile(weight, channels)


def part(places: Taps, start: int, stop: int) -> Taps:
    """The taps of some of the images."""
    first, weight = places
    return first[start:stop], weight[start:stop]


def stretch(images: Tensor | np.ndarray, down: Taps, across: Taps, out: Tensor | np.ndarray) -> None:
    """Writes images [n, c, h, w] at the size of `out`, which is contiguous: arrays, or tensors on a device.

    `down` are taps in channels, `across` those of one channel.
    """
    if isinstance(images, np.ndarray):
        assert isinstance(out, np.ndarray)
        on_cpu(images, down, across, out)
    else:
        assert not isinstance(out, np.ndarray)
        on_device(images, down, across, out)


def on_cpu(images: np.ndarray, down: Taps, across: Taps, out: np.ndarray) -> None:
    import cv2  # turns an image ten times as fast as NumPy and torch do

    n, channels, height, width = images.shape
    table = images.astype(np.int16).reshape(-1, width)
    rows = new_rows(table, numbered(down, channels * height), down[1].reshape(-1, 1)).reshape(n, -1, width)
    turned = np.empty((n, width, rows.shape[1]), np.int16)
    for image, columns in zip(rows, turned, strict=True):
        cv2.transpose(image, columns)
    table = turned.reshape(n * width, -1)
    turned = new_rows(table, numbered(across, width), across[1].reshape(-1, 1)).astype(np.uint8)
    for columns, image in zip(turned.reshape(n, -1, rows.shape[1]), out.reshape(n, -1, out.shape[3]), strict=True):
        cv2.transpose(columns, image)


def on_device(images: Tensor, down: Taps, across: Taps, out: Tensor) -> None:
    n, channels, height, width = images.shape
    rows = gathered_rows(images.reshape(-1, width), numbered(down, channels * height), down[1])
    turned = rows.view(n, -1, width).transpose(1, 2).contiguous()
    rows = gathered_rows(turned.view(n * width, -1), numbered(across, width), across[1])
    out.copy_(rows.view(n, out.shape[3], -1).transpose(1, 2).reshape(out.shape))


def numbered(places: Taps, height: int) -> np.ndarray:
    """The rows of the taps in a table of several images, each of so many rows."""
    first, _ = places
    return (first + np.arange(len(first))[:, None] * height).ravel()


def new_rows(table: np.ndarray, first: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Rows between those of a table of int16."""
    step = np.empty_like(table)  # from each row to the one below it
    np.subtract(table[1:], table[:-1], out=step[:-1])
    step[-1] = 0
    out = step.take(first, 0)
    out *= weight
    out += 64
    out >>= 7
    out += table.take(first, 0)
    return out


def gathered_rows(table: Tensor, first: np.ndarray, weight: np.ndarray) -> Tensor:
    """Rows between those of a table of uint8."""
    first, weight = (torch.from_numpy(tap).to(table.device).view(-1) for tap in (first, weight))
    a, b = table[first], table[(first + 1).clamp_(max=len(table) - 1)]
    step = b.short().sub_(a).mul_(weight[:, None]).add_(64).bitwise_right_shift_(7)
    return step.to(torch.uint8).add_(a)  # modulo 256, where a negative step comes out right
