"""What a network shows in rows and columns: tokens of a transformer as a map, and the classes at each pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from kdcache.models.elsewhere import Layout

CAM = "cam"
"""The tap of the class activation map."""


def as_map(layout: Layout | None, name: str, tensor: Tensor, size: Sequence[int]) -> Tensor:
    """What a stage shows as [n, c, h, w]: tokens of images of this size, without those in front; and [n, h, w, c]."""
    if layout is None or name in ("emb", "logits"):
        return tensor
    if tensor.ndim == 4 and layout.nhwc:
        return tensor.permute(0, 3, 1, 2).contiguous()
    for prefix in (layout.prefix, 0) if tensor.ndim == 3 else ():
        if grid := grid_of(tensor.shape[1] - prefix, size):
            return tensor[:, prefix:].transpose(1, 2).contiguous().unflatten(2, grid)
    return tensor


def grid_of(tokens: int, size: Sequence[int]) -> tuple[int, int] | None:
    """Rows and columns of so many tokens, for images of this height and width; None where they make no grid."""
    height = round(math.sqrt(max(tokens, 0) * size[0] / size[1]))
    if height < 1 or tokens % height or abs(height * size[1] - tokens // height * size[0]) >= max(size):
        return None
    return height, tokens // height


def class_map(weight: Tensor, maps: Tensor) -> Tensor:
    """What the last layer makes of each pixel, without its bias: its mean and that bias are the logits."""
    return F.conv2d(maps, weight[:, :, None, None])
