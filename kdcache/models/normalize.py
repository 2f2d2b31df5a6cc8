"""Pixels to the floats that bodies are fed with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """uint8 [n, c, h, w] to floats, with a mean and a std per channel in units of 0..1; keeps the memory format."""

    mean: Tensor
    std: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        assert len(mean) == len(std)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        self.register_buffer("scale", None, persistent=False)
        self.register_buffer("shift", None, persistent=False)
        _rescale(self, None)
        self.register_load_state_dict_post_hook(_rescale)

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8, images.dtype
        if images.is_contiguous() or not images.is_contiguous(memory_format=torch.channels_last):
            scale, shift = self.scale.view(-1, 1, 1), self.shift.view(-1, 1, 1)
            return images.to(scale.dtype).mul_(scale).add_(shift)
        width = images.shape[3]  # whole rows of pixels at once: three channels inside is 8 times as slow
        rows = images.permute(0, 2, 3, 1).flatten(2).to(self.scale.dtype)
        rows.mul_(self.scale.repeat(width)).add_(self.shift.repeat(width))
        return rows.unflatten(2, (width, -1)).permute(0, 3, 1, 2)


def _rescale(normalize: Normalize, _) -> None:
    if normalize.mean.is_meta:  # arithmetic without values would import torch's compiler, which takes seconds
        normalize.scale = normalize.shift = normalize.mean
        return
    normalize.scale = 1 / (255 * normalize.std)
    normalize.shift = -normalize.mean / normalize.std
