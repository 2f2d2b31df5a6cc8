"""The answer to an image does not depend on the images beside it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

FEWEST = 16  # rows: with fewer, libraries leave the paths on which a row's rounding does not depend on the others


def in_company(images: Tensor) -> Tensor:
    """The images, with the first of them repeated where they are few: few rows alone round differently."""
    missing = FEWEST - len(images)
    return images if missing <= 0 else torch.cat([images, images[:1].expand(missing, -1, -1, -1)])


class LinearInBlocks(TorchFunctionMode):
    """Linear layers always see this many rows at once.

    How a library cuts a matrix product up, and so how it rounds, depends on the number of rows; with this, the
    answer to an image does not depend on how many others were asked about with it.
    """

    ROWS = 64

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.linear and args and args[0].ndim == 2:
            return in_blocks(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def in_blocks(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    padded = F.pad(rows, (0, 0, 0, -len(rows) % LinearInBlocks.ROWS))
    return torch.cat([F.linear(part, weight, bias) for part in padded.split(LinearInBlocks.ROWS)])[: len(rows)]
